import subprocess
import sys

import pytest

import keras_kd


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_contract_names():
    for name in (
        "Distiller",
        "Hint",
        "Prune",
        "QuantizeAware",
        "compress",
        "evaluate_tflite",
        "export_tflite",
        "losses",
        "teachers",
    ):
        assert hasattr(keras_kd, name)


def test_heavy_parts_are_there_when_asked_for():
    assert keras_kd.datasets.load is not None
    assert keras_kd.report.write_report is not None
    with pytest.raises(AttributeError, match="absent"):
        keras_kd.absent  # noqa: B018


@pytest.mark.parametrize("package", [keras_kd, keras_kd.teachers], ids=["keras_kd", "teachers"])
def test_every_public_name_is_there(package):
    assert {"Distiller", "cache"} & set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_nothing_heavy_is_imported_before_it_is_used():
    code = """
import sys, os
import keras
before = set(sys.modules)
import keras_kd
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert "keras_kd.compression" not in sys.modules
assert "keras_kd.export" not in sys.modules
heavy = {"tensorflow_model_optimization", "tf_keras", "ai_edge_litert", "tensorflow_datasets",
         "matplotlib", "jinja2", "sklearn"}
assert not new & heavy, new & heavy
assert "TF_USE_LEGACY_KERAS" not in os.environ
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.promise
def test_another_backend_is_refused_with_the_line_to_change():
    # The other backends are not installed: Keras is told to say that it runs on one.
    done = run('import keras; keras.backend.backend = lambda: "jax"; import keras_kd')
    assert done.returncode != 0
    assert "'jax'" in done.stderr
    assert "KERAS_BACKEND=tensorflow" in done.stderr
