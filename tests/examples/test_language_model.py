import json

import pytest


@pytest.mark.promise
def test_runs_in_quick_mode(run_quick):
    run = run_quick("language_model", "perplexity")
    assert list(run.files) == [
        "teacher",
        "student alone",
        "student alone, dynamic",
        "distilled",
        "distilled, dynamic",
        "distilled, int8",
    ]
    assert run.metric == "perplexity"
    accuracy = json.loads((run.folder / "accuracy/results.json").read_text())
    assert accuracy["metric"] == "accuracy" and list(accuracy["files"]) == list(run.files)
    assert run.files["distilled, int8"]["bytes"] <= run.files["teacher"]["bytes"] / 10
