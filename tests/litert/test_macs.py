"""Multiplications counted by hand, and those of `keras_kd.model_cost`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.macs import count_macs, operator_types
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def export(model, tmp_path, **kwargs):
    return kd.export_tflite(model, tmp_path / "a.tflite", verbose=False, **kwargs)


def test_convolutions_and_dense_by_hand(tmp_path) -> None:
    model = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(4, (3, 2), strides=2),  # 4 x 4 positions, 4 x 3 x 2 x 3 each
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(2),  # 3 x 3 positions, 4 x 2 x 2 each
            layers.Conv2DTranspose(5, 2, strides=2),  # 3 x 3 x 4 inputs meet 5 x 2 x 2 weights
            layers.Flatten(),
            layers.Dense(7),  # 6 x 6 x 5 x 7
        ]
    )
    generator = np.random.default_rng(0)
    for weight in model.weights:  # the converter leaves out biases of zero
        weight.assign(generator.uniform(0.5, 1, weight.shape))
    expected = {
        "CONV_2D": 16 * 4 * 18,
        "DEPTHWISE_CONV_2D": 9 * 16,
        "TRANSPOSE_CONV": 36 * 20,
        "FULLY_CONNECTED": 180 * 7,
    }
    path = export(model, tmp_path)
    macs = count_macs(ModelFile(path.read_bytes()))
    assert macs.by_operator == expected and macs.not_counted == {}
    assert macs.total == sum(expected.values()) == kd.model_cost(model).macs
    x = np.zeros((3, 9, 8, 3), np.float32)
    result = kd.evaluate_tflite(path, x, runs=1, warmup=0)
    assert result.macs == macs.total
    # The normalization is folded: kernels and one bias a channel are left.
    assert result.parameters == 4 * 18 + 4 + 16 + 4 + 5 * 4 * 4 + 5 + 180 * 7 + 7
    assert result.operator_types["FULLY_CONNECTED"] == {"FLOAT32": 1}
    fixed = export(model, tmp_path, batch_size=4)
    assert count_macs(ModelFile(fixed.read_bytes())).total == 4 * macs.total
    assert kd.evaluate_tflite(fixed, x, runs=1, warmup=0).macs == macs.total


def test_grouped_convolution(tmp_path) -> None:
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(8, 3, groups=2)])
    macs = count_macs(ModelFile(export(model, tmp_path).read_bytes()))
    assert macs.total == 16 * 8 * 9 * 2 == kd.model_cost(model).macs


def test_matrix_products(tmp_path) -> None:
    i = keras.Input((6, 8))
    model = keras.Model(i, layers.MultiHeadAttention(2, 4)(i, i))
    macs = count_macs(ModelFile(export(model, tmp_path).read_bytes()))
    # Four projections, then queries by keys and weights by values of both heads.
    assert macs.total == 4 * 6 * 8 * 8 + 2 * 2 * 6 * 6 * 4 == kd.model_cost(model).macs
    assert macs.by_operator["BATCH_MATMUL"] == 2 * 2 * 6 * 6 * 4


@pytest.mark.promise
def test_loops_count_as_often_as_they_run(tmp_path) -> None:
    model = keras.Sequential(
        [keras.Input((6, 4)), layers.LSTM(5, return_sequences=True), layers.GRU(3), layers.Dense(2)]
    )
    path = export(model, tmp_path)
    file = ModelFile(path.read_bytes())
    assert file.operator_counts()["WHILE"] == 2
    expected = 6 * 4 * 5 * (4 + 5) + 6 * 3 * 3 * (5 + 3) + 3 * 2
    assert count_macs(file).total == expected == kd.model_cost(model).macs


@pytest.mark.promise
def test_unrolled_loops(tmp_path) -> None:
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(5), layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
    path = export(model, tmp_path, quantization="int8", representative_data=x)
    file = ModelFile(path.read_bytes())
    assert "WHILE" not in file.operator_counts()
    # The first step knows that the state is zero.
    assert count_macs(file).total == kd.model_cost(model).macs - 4 * 5 * 5
    assert operator_types(file)["FULLY_CONNECTED"] == {"INT8": 6 + 5 + 1}


def test_sizes_which_the_data_gives(tmp_path) -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3, padding="same")])
    path = export(model, tmp_path)
    runtime = LiteRuntime(path, xnnpack=False)
    runtime.predict({runtime.inputs[0].name: np.zeros((2, 5, 7, 3), np.float32)})
    assert count_macs(runtime.file, runtime.tensor_shape).total == 2 * 5 * 7 * 4 * 27
    result = kd.evaluate_tflite(path, np.zeros((2, 5, 7, 3), np.float32), runs=1, warmup=0)
    assert result.macs == 5 * 7 * 4 * 27


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        ("int8", "INT8"),
        ("int16x8", "INT16 (INT8 weights)"),
        ("float16", "FLOAT32 (FLOAT16 weights)"),
        ("dynamic", "FLOAT32 (INT8 weights)"),
    ],
)
def test_types_of_operators(tmp_path, quantization: str, kind: str) -> None:
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32)])
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    data = x if quantization in ("int8", "int16x8") else None
    path = export(model, tmp_path, quantization=quantization, representative_data=data)
    file = ModelFile(path.read_bytes())
    assert operator_types(file)["FULLY_CONNECTED"] == {kind: 1}
    assert count_macs(file).total == 64 * 32
