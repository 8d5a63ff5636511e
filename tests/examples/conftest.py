"""Runs an example as a user does, in a folder of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run_quick(tmp_path):
    """Return a function that runs a script in quick mode: its output and where it wrote."""

    def run(name, data_set=None):
        data = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
        if data_set and not (data / data_set).exists():
            pytest.skip(f"'{data_set}' is not in TFDS_DATA_DIR")
        done = subprocess.run(
            [sys.executable, ROOT / f"examples/{name}.py", "--quick"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout, tmp_path / "exports" / name

    return run
