"""Settings of the tests: no GPU, no log noise, no display, and fixed seeds."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import random
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    # Keras costs seconds to import: tests that do not use it do not pay for it.
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "utils"):
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def load_script():
    """Return a function that loads a script of this repository, `"benchmarks/run.py"`."""
    root = pathlib.Path(__file__).parents[1]

    def load(name):
        path = root / name
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # for the scripts beside it
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module

    return load
