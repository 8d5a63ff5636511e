"""The example runs from the ratings to measured files."""

import json

from keras_kd.report import files_table

TITLES = [
    "teacher",
    "student alone",
    "distilled",
    "distilled, int8",
    "pruned, int8",
    "pruned, clustered, int8",
]


def test_runs_in_quick_mode(run_quick):
    printed, folder = run_quick("ranking", "movielens")
    record = json.loads((folder / "results.json").read_text())
    assert list(record["files"]) == TITLES
    assert record["metric"] == "auc"
    assert files_table(record) in printed
    for title, file in record["files"].items():
        name = title.replace(", ", "_").replace(" ", "_")
        assert (folder / f"{name}.tflite").stat().st_size == file["bytes"]
    sizes = {title: file["zipped_bytes"] for title, file in record["files"].items()}
    assert sizes["distilled, int8"] * 10 < sizes["teacher"]
    # Half of the tables is zero; then they hold 16 values at most.
    assert sizes["pruned, int8"] < 0.85 * sizes["distilled, int8"]
    assert sizes["pruned, clustered, int8"] < 0.95 * sizes["pruned, int8"]
