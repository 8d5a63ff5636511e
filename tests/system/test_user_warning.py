"""A warning points to the line of the user's program, however deep it arises."""

import pathlib

import keras
import numpy as np
import pytest

import keras_kd as kd


def line_of(text):
    lines = pathlib.Path(__file__).read_text().splitlines()
    return 1 + next(i for i, line in enumerate(lines) if line.lstrip().startswith(text))


def points_here(caught, token, line):
    (warning,) = [w for w in caught if token in str(w.message)]
    assert (warning.filename, warning.lineno) == (__file__, line_of(line))


def test_a_call_at_the_surface(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"new")
    (tmp_path / "a.tflite.json").write_text('{"sha256": "old"}')
    with pytest.warns(UserWarning) as caught:
        kd.read_metadata(tmp_path / "a.tflite")
    points_here(caught, "is not used", "kd.read_metadata(")


def mean_without_nan(y, y_pred):
    return keras.ops.mean(keras.ops.square(keras.ops.nan_to_num(y) - y_pred))


def test_a_fit_through_keras():
    def network():
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    distiller = kd.Distiller(network(), network(), kd.losses.LogitsMSE())
    distiller.compile("sgd", loss=mean_without_nan)
    x, y = np.zeros((4, 2), "float32"), np.full((4, 1), np.nan, "float32")
    prune = kd.Prune(0.5).as_callback()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(distiller, "stop_training", True)
    )
    with pytest.warns(UserWarning) as caught:
        distiller.fit(x, y, verbose=0, epochs=10, callbacks=[prune, stop])
    points_here(caught, "labels hold NaN", "distiller.fit(")
    points_here(caught, "Training ended before", "distiller.fit(")


def test_the_package_warns_in_one_place():
    package = pathlib.Path(kd.__file__).parent
    found = [f for f in package.rglob("*.py") if "warnings.warn(" in f.read_text(encoding="utf-8")]
    assert [file.name for file in found] == ["user_warning.py"]
