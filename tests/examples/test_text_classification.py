"""The example runs from the data to measured files."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TITLES = [
    "teacher",
    "two layers, alone",
    "two layers, distilled",
    "two layers, distilled, dynamic",
    "two layers, distilled, int8",
    "convolutions, alone",
    "convolutions, distilled",
    "convolutions, distilled, int8",
]


def needs_data():
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", ""))
    for name in ("imdb_reviews", "minilm"):
        if not os.environ.get("TFDS_DATA_DIR") or not (folder / name).exists():
            pytest.skip(f"'{name}' is not in TFDS_DATA_DIR")


def test_runs_in_quick_mode(tmp_path):
    needs_data()
    for package in ("keras_hub", "tensorflow_text", "safetensors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"'{package}' is not installed")
    done = subprocess.run(
        [sys.executable, ROOT / "examples/text_classification.py", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "exports/text_classification/results.json").read_text())
    assert list(record["files"]) == TITLES
    table = (tmp_path / "exports/text_classification/table.md").read_text()
    assert table in done.stdout
    sizes = {title: file["bytes"] for title, file in record["files"].items()}
    for title in TITLES:
        name = title.replace(", ", "_").replace(" ", "_")
        file = tmp_path / f"exports/text_classification/{name}.tflite"
        assert file.stat().st_size == sizes[title]
        if title.endswith(("dynamic", "int8")):
            assert sizes[title] <= sizes["teacher"] / 10
