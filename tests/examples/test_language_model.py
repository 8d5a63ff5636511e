"""The example runs from the data to measured files."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TITLES = ["teacher", "student alone", "distilled", "distilled, dynamic", "distilled, int8"]


def needs_data():
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not (pathlib.Path(folder) / "imdb_reviews").exists():
        pytest.skip("'imdb_reviews' is not in TFDS_DATA_DIR")


def test_runs_in_quick_mode(tmp_path):
    needs_data()
    done = subprocess.run(
        [sys.executable, ROOT / "examples/language_model.py", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "exports/language_model/results.json").read_text())
    assert list(record["files"]) == TITLES
    assert record["metric"] == "perplexity"
    table = (tmp_path / "exports/language_model/table.md").read_text()
    assert table in done.stdout
    assert "| accuracy |" in done.stdout
    sizes = {title: file["bytes"] for title, file in record["files"].items()}
    for title in TITLES:
        name = title.replace(", ", "_").replace(" ", "_")
        file = tmp_path / f"exports/language_model/{name}.tflite"
        assert file.stat().st_size == sizes[title]
        if title.endswith("int8"):
            assert sizes[title] <= sizes["teacher"] / 10
