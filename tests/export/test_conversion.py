"""Which batch size a file gets, how many conversions that takes, and the order of its ends."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.conversion import Conversion, order_ends
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


@pytest.mark.promise
def test_the_order_is_changed_only_for_known_names(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    model = keras.Model(i, [layers.Dense(3, name="a")(i), layers.Dense(4, name="b")(i)])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    file = ModelFile(path.read_bytes())
    a, b = file.graph_outputs(0)
    for outputs, expected in ((["a", "b"], [a, b]), (["a", "c"], [a, b]), (["b", "a"], [b, a])):
        order_ends(file, "serving_default", ["x"], outputs)
        assert file.graph_outputs(0) == expected
    again = ModelFile(file.packed())
    assert again.graph_outputs(0) == [b, a]
    assert [again.tensor(0, b).shape, again.tensor(0, a).shape] == [(1, 4), (1, 3)]


def squeezing(reshape):
    """Squeeze-and-excite, or what looks like it without a shape that holds the batch size."""
    image = keras.Input((8, 8, 4))
    x = layers.GlobalAveragePooling2D(keepdims=not reshape)(image)
    x = layers.Reshape((1, 1, 4))(x) if reshape else x
    x = layers.Conv2D(4, 1, activation="sigmoid")(x)
    x = layers.Multiply()([image, x])
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def dense():
    image = keras.Input((4, 4, 2))
    return keras.Model(image, layers.Dense(2)(layers.Reshape((32,))(image)))


@pytest.mark.fast_cases("kept")
@pytest.mark.parametrize(
    ("model", "known", "batch", "conversions"),
    [(squeezing(True), True, 1, 1), (squeezing(False), False, None, 1), (dense(), False, 1, 2)],
    ids=["reshaped", "kept", "dense"],
)
def test_an_open_batch_is_not_tried_where_its_cost_is_known(
    tmp_path, monkeypatch, model, known, batch, conversions
):
    assert KerasSource(model).needs_batch_size({"serving_default": None}, False) == known
    counted = []
    convert = Conversion._convert
    monkeypatch.setattr(
        Conversion, "_convert", lambda *given: counted.append(given) or convert(*given)
    )
    path = kd.export_tflite(model, tmp_path / "model.tflite", verbose=False)
    assert len(counted) == conversions
    assert LiteRuntime(path).inputs[0].shape[0] == batch
    # What is known beforehand is what the open file shows: operators which compute shapes.
    if known:
        path = kd.export_tflite(model, path, batch_size=None, verbose=False)
        names = {operator.name for operator in LiteRuntime(path).file.operators()}
        assert "SHAPE" in names


@pytest.mark.fast_cases("int8")
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_samples_fill_a_batch_of_a_given_size(tmp_path, quantization):
    """Also where an operator holds the size of the batch, as that of `Reshape` does."""
    x = np.random.default_rng(0).normal(size=(40, 4, 4, 2)).astype("float32")
    given = {"representative_data": x, "on_disagreement": "error", "verbose": False}
    path = export_tflite(dense(), tmp_path / "a.tflite", quantization, batch_size=4, **given)
    assert LiteRuntime(path).inputs[0].shape[0] == 4
