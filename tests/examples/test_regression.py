"""The example runs from the data to measured files."""

import json
import pathlib

from keras_kd.report import files_table

ROOT = pathlib.Path(__file__).parents[2]
TITLES = [
    "teacher",
    "student alone",
    "bounded by the teacher",
    "drawn to the teacher",
    "drawn to the teacher, int8",
]


def test_runs_in_quick_mode(run_quick):
    printed, folder = run_quick("regression")
    record = json.loads((folder / "results.json").read_text())
    assert list(record["files"]) == TITLES
    assert record["metric"] == "rmse"
    assert files_table(record) in printed
    for title, file in record["files"].items():
        name = title.replace(", ", "_").replace(" ", "_")
        assert (folder / f"{name}.tflite").stat().st_size == file["bytes"]
    guess = float(printed.rsplit("Guessing the mean:", 1)[1])
    assert record["files"]["teacher"]["values"][0] < guess


def test_the_page_quotes_the_run():
    record = ROOT / "exports/reference/examples/regression.json"
    page = (ROOT / "docs/examples/regression.md").read_text()
    assert files_table(json.loads(record.read_text())) in page
