import pytest


@pytest.mark.slow
def test_runs_in_quick_mode(run_quick):
    run = run_quick("text_classification")
    assert list(run.files) == [
        "teacher",
        "two layers, alone",
        "two layers, distilled",
        "two layers, distilled, dynamic",
        "two layers, distilled, int8",
        "convolutions, alone",
        "convolutions, distilled",
        "convolutions, distilled, int8",
    ]
    for title, file in run.files.items():
        if title.endswith(("dynamic", "int8")):
            assert file["bytes"] <= run.files["teacher"]["bytes"] / 10
