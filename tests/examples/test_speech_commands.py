"""The example runs from the recordings to a C array."""

import json
import pathlib

from keras_kd.report import files_table

ROOT = pathlib.Path(__file__).parents[2]
TITLES = [
    "teacher",
    "student alone",
    "distilled",
    "distilled, int8 after training",
    "distilled, quantization-aware, int8",
    "distilled, features inside",
    "distilled, features inside, int8",
]


def test_runs_in_quick_mode(run_quick):
    printed, folder = run_quick("speech_commands", "spoken_digit")
    record = json.loads((folder / "results.json").read_text())
    assert list(record["files"]) == TITLES
    assert files_table(record) in printed
    for title, file in record["files"].items():
        name = title.replace(", ", "_").replace(" ", "_")
        assert (folder / f"{name}.tflite").stat().st_size == file["bytes"]
    int8 = record["files"]["distilled, quantization-aware, int8"]
    assert int8["bytes"] * 10 < record["files"]["teacher"]["bytes"]
    assert "AddDepthwiseConv2D" in (folder / "spoken_digit.h").read_text()
    source = (folder / "spoken_digit.cc").read_text()
    assert '"9"' in source and len(source) > 2 * int8["bytes"]


def test_the_page_quotes_the_run():
    record = ROOT / "exports/reference/examples/speech_commands.json"
    page = (ROOT / "docs/examples/speech_commands.md").read_text()
    assert files_table(json.loads(record.read_text())) in page
