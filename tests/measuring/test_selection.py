from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.model_file import ModelFile
from keras_kd.measuring.selection import file_end


def end_of(path: pathlib.Path, *last, **options) -> str | None:
    model = keras.Sequential([keras.Input((4,)), *last])
    export_tflite(model, path, verbose=False, **options)
    return file_end(ModelFile(path.read_bytes()), 0)


@pytest.mark.fast_cases("last0-linear", "last3-softmax", "last6-None")
@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([layers.Dense(3)], "linear"),
        ([layers.Dense(6), layers.Reshape((2, 3))], "linear"),
        ([layers.Dense(3, activation="relu")], None),
        ([layers.Dense(6), layers.Reshape((2, 3)), layers.Softmax()], "softmax"),
        ([layers.Dense(3, activation="softmax"), layers.Reshape((1, 3))], "softmax"),
        ([layers.Dense(1, activation="sigmoid"), layers.Flatten()], "sigmoid"),
        ([layers.Dense(1, activation="hard_sigmoid")], None),
    ],
)
def test_end_of_a_file(tmp_path: pathlib.Path, last, expected: str | None) -> None:
    assert end_of(tmp_path / "a.tflite", *last) == expected


def test_end_of_a_quantized_file(tmp_path: pathlib.Path) -> None:
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    options = {"quantization": "int8", "representative_data": x}
    end = end_of(tmp_path / "a.tflite", layers.Dense(3, activation="softmax"), **options)
    assert end == "softmax"
