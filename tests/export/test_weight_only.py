"""Weights in 8 bits that are dequantized before they are used."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def rounded(kernel, axis):
    """Return a kernel in 8 bits with a scale for each position of an axis, in float64."""
    kernel = np.asarray(kernel, np.float64)
    others = tuple(i for i in range(kernel.ndim) if i not in np.atleast_1d(axis))
    scale = np.abs(kernel).max(axis=others, keepdims=True) / 127
    return np.round(kernel / scale) * scale


@pytest.mark.fast_cases("layer2-shape2-2")
@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (layers.Dense(64), (32,), 1),
        (layers.Conv2D(64, 3), (6, 6, 8), 3),
        (layers.DepthwiseConv2D(3), (6, 6, 128), 2),
        (layers.Conv2DTranspose(32, 3), (6, 6, 8), 2),
        (layers.Conv1D(64, 3), (6, 8), 2),
        (layers.Embedding(50, 32), (6,), 0),
    ],
)
def test_computes_in_float_with_rounded_weights(tmp_path, layer, shape, axis):
    keras.utils.set_random_seed(0)
    whole = isinstance(layer, layers.Embedding)
    i = keras.Input(shape, dtype="int32" if whole else "float32", name="x")
    model = keras.Model(i, layer(i))
    generator = np.random.default_rng(0)
    x = generator.integers(0, 50, (4, *shape)) if whole else generator.normal(size=(4, *shape))
    x = x.astype("int32" if whole else "float32")
    path = kd.export_tflite(model, tmp_path / "a.tflite", "weight_only", verbose=False)
    kernel = model.layers[-1].weights[0]
    kernel.assign(rounded(kernel, axis))
    expected = np.asarray(model(x, training=False))
    for xnnpack in (None, False):
        found = LiteRuntime(path, xnnpack=xnnpack).predict({"x": x})
        np.testing.assert_allclose(next(iter(found.values())), expected, atol=2e-5)
    assert {"INT8"} <= set(ModelFile(path.read_bytes()).tensor_types())
    plain = kd.export_tflite(model, tmp_path / "b.tflite", verbose=False)
    assert path.stat().st_size < 0.75 * plain.stat().st_size


def test_small_kernels_and_biases_stay_float(tmp_path):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(34), layers.Dense(40)])
    path = kd.export_tflite(model, tmp_path / "a.tflite", "weight_only", verbose=False)
    kinds = {
        t.shape: t.kind for t in ModelFile(path.read_bytes()).graphs()[0].tensors if t.constant
    }
    assert kinds[34, 30] == "FLOAT32" and kinds[40, 34] == "INT8"


def test_signatures_share_the_weights(tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, name="a"), layers.Dense(8)])
    sizes = [
        kd.export_tflite(
            model, tmp_path / "a.tflite", "weight_only", signatures=signatures, verbose=False
        )
        .stat()
        .st_size
        for signatures in ({"serving_default": None}, {"serving_default": None, "embed": "a"})
    ]
    assert sizes[1] < sizes[0] + 2000
