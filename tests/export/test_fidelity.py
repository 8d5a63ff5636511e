from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def outlier_channel() -> keras.Model:
    """One channel is a thousand times as large as the others, and hardly matters afterwards."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(8, 3, name="conv")(i)
    z = layers.DepthwiseConv2D(1, name="scale")(z)
    z = layers.ReLU(name="relu")(layers.Conv2D(8, 3, name="next")(z))
    model = keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))
    kernel, bias = model.get_layer("scale").get_weights()
    kernel[..., 0, :] = 5e3
    kernel[..., 1:, :] = 1.0
    model.get_layer("scale").set_weights([kernel, bias])
    kernel, bias = model.get_layer("next").get_weights()
    kernel[:, :, 0] *= 1e-5
    model.get_layer("next").set_weights([kernel, bias])
    return model


def said(model, path, quantization, data) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        export_tflite(model, path, quantization, representative_data=data, verbose=False)
    return [str(w.message) for w in found if "far from its model" in str(w.message)]


def test_an_outlier_channel_is_named(tmp_path):
    (text,) = said(outlier_channel(), tmp_path / "a.tflite", "int8", images())
    assert "quantization='int8'" in text and "grows most in 'next + relu'" in text


def test_several_outputs(tmp_path):
    model = outlier_channel()
    model = keras.Model(model.input, {"good": model.get_layer("conv").output, "bad": model.output})
    (text,) = said(model, tmp_path / "a.tflite", "int8", images())
    assert "output 'bad'" in text


@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8", "int16x8"])
def test_nothing_is_said_of_a_true_file(tmp_path, quantization):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.ReLU(), layers.Flatten()]
    )
    model.add(layers.Dense(5))
    assert not said(model, tmp_path / "a.tflite", quantization, images())


def test_a_half_precision_overflow_is_told(tmp_path):
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(3, use_bias=False)(i))
    model.layers[-1].set_weights([np.full((4, 3), 1e6, "float32")])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    (text,) = said(model, tmp_path / "a.tflite", "float16", x)
    assert "quantization='float16'" in text


@pytest.mark.promise
def test_a_compressed_student_is_measured(tmp_path):
    class Written:
        quantization_aware = False

        def __init__(self, model):
            self.held = model

        def write_saved_model(self, folder):
            self.held.export(str(folder), verbose=False)

    (text,) = said(Written(outlier_channel()), tmp_path / "a.tflite", "int8", images())
    assert "far from its model" in text
