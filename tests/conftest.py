"""Settings of the tests: no GPU, no log noise, no display, and fixed seeds."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import pathlib
import random
import re
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as `promise` the cases of a test that its mark `fast_cases` does not name."""
    for item in items:
        mark = item.get_closest_marker("fast_cases")
        if mark is not None and item.callspec.id not in mark.args:
            item.add_marker("promise")


def pytest_collection_finish():
    """Keep the collector off what was imported: a tenth of the time went into that."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    # Keras costs seconds to import: tests that do not use it do not pay for it.
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "utils"):
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def dtype_policy():
    """Return a context manager under which models are made with a dtype policy."""
    import keras

    @contextlib.contextmanager
    def under(name):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(name)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)

    return under


@pytest.fixture(scope="session")
def parse_command():
    """Return a function that gives the settings of a command line; what is missing is `"x"`."""
    import click

    from keras_kd.cli.commands import COMMANDS
    from keras_kd.cli.entry import GROUP

    def parse(name, *words):
        command = COMMANDS[name]
        missing = {param.name: "x" for param in command.settings if param.required}
        parent = click.Context(GROUP)
        context = command.make_context(name, list(words), parent=parent, default_map=missing)
        return command.values(context)

    return parse


TWO_DEVICES = """
import json
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import keras_kd as kd

# A second strategy in one process would meet the collective operations of the first.
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
results = {}
"""


@pytest.fixture(scope="session")
def run_on_two_devices(tmp_path_factory):
    """Return a function that runs code in a process of two devices, with a `strategy` over them.

    The code fills the dictionary `results`, which the function returns.
    """

    def run(code):
        folder = tmp_path_factory.mktemp("two_devices")
        end = 'json.dump(results, open("results.json", "w"))'
        (folder / "script.py").write_text(f"{TWO_DEVICES}{code}\n{end}\n")
        path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
        process = subprocess.run(
            [sys.executable, "script.py"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return json.loads((folder / "results.json").read_text())

    return run


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


@pytest.fixture
def write_micro_stubs():
    """Return a function that writes stand-ins for the headers which a C++ source includes."""
    stubs = pathlib.Path(__file__).with_name("micro_stubs.h").read_text()

    def write(folder, source, operators, first_output=0):
        methods = "\n  ".join(f"TfLiteStatus {name}() {{ return Add(); }}" for name in operators)
        text = stubs.replace("METHODS", methods).replace("FIRST_OUTPUT", str(first_output))
        (folder / "stubs.h").write_text(text)
        for name in re.findall(r'#include "(tensorflow.*)"', source):
            header = folder / name
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text("#pragma once\n#include <stubs.h>\n")

    return write
