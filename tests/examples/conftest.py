"""Runs an example as a user does, in a folder of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from keras_kd.report import files_table

ROOT = pathlib.Path(__file__).parents[2]
# What an example needs beside the package's own dependencies: datasets, packages.
NEEDS = {
    "image_classification": (["fashion_mnist"], []),
    "image_segmentation": (["fashion_mnist"], []),
    "language_model": (["imdb_reviews"], []),
    "object_detection": (["fashion_mnist"], []),
    "ranking": (["movielens"], []),
    "speech_commands": (["spoken_digit"], []),
    "text_classification": (
        ["imdb_reviews", "minilm"],
        ["keras_hub", "tensorflow_text", "safetensors"],
    ),
}
ON_SCENES = ("image_segmentation", "object_detection")


def data_folder():
    """Return where TFDS keeps its datasets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@dataclasses.dataclass(frozen=True)
class QuickRun:
    """What a run printed and wrote, and the record of its files by title."""

    printed: str
    folder: pathlib.Path
    metric: str
    files: dict[str, Any]


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """Return a folder of datasets in which `fashion_scenes` is made once, of `fashion_mnist`."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "fashion_mnist").symlink_to((data_folder() / "fashion_mnist").resolve())
    return folder


@pytest.fixture
def environment(request):
    """Return a function that skips where an example's needs are absent, else its environment."""

    def make(name):
        data_sets, packages = NEEDS.get(name, ([], []))
        data = data_folder()
        for data_set in data_sets:
            if not (data / data_set).exists():
                pytest.skip(f"'{data_set}' is not in TFDS_DATA_DIR")
        for package in packages:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"'{package}' is not installed")
        if name in ON_SCENES and not (data / "fashion_scenes").exists():
            data = request.getfixturevalue("scenes_folder")
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        return {**os.environ, "PYTHONPATH": path, "TFDS_DATA_DIR": str(data)}

    return make


@pytest.fixture
def run_quick(tmp_path, environment):
    """Return a function that runs a script in quick mode and looks at what every one must give."""

    def run(name, results="."):
        done = subprocess.run(
            [sys.executable, ROOT / f"examples/{name}.py", "--quick"],
            cwd=tmp_path,
            env=environment(name),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        folder = tmp_path / "exports" / name
        record = json.loads((folder / results / "results.json").read_text())
        assert files_table(record) in done.stdout
        assert (folder / results / "table.md").read_text() in done.stdout
        for title, file in record["files"].items():
            written = folder / f"{title.replace(', ', '_').replace(' ', '_')}.tflite"
            assert written.stat().st_size == file["bytes"]
        return QuickRun(done.stdout, folder, record["metric"], record["files"])

    return run
