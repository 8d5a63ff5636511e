"""Numbers beyond the range of float16."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export import float16
from keras_kd.litert.runtime import LiteRuntime

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
ZEROS = np.zeros((1, 4), "float32")


def answers(path, x):
    runtime = LiteRuntime(path)
    return next(iter(runtime.predict({runtime.inputs[0].name: x}).values()))


def large():
    last = layers.Dense(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu"), last])
    last.kernel.assign(last.kernel * 3e4)
    last.bias.assign([2e5])
    return model


MODELS = {
    "bias": large,
    "UnitNormalization": lambda: keras.Sequential([keras.Input((4,)), layers.UnitNormalization()]),
    "LayerNormalization": lambda: keras.Sequential(
        [keras.Input((4,)), layers.LayerNormalization(epsilon=1e-12), layers.Dense(3)]
    ),
    "RMSNormalization": lambda: keras.Sequential(
        [keras.Input((4,)), layers.RMSNormalization(epsilon=1e-12), layers.Dense(3)]
    ),
    "folded scale": lambda: keras.Sequential(
        [keras.Input((4,)), layers.Rescaling(1e-8), layers.Dense(2)]
    ),
}


@pytest.mark.fast_cases("bias", "LayerNormalization")
@pytest.mark.parametrize("name", MODELS)
def test_numbers_that_float16_cannot_hold_stay_in_float32(tmp_path, name):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    path = kd.export_tflite(model, tmp_path / "a.tflite", "float16", verbose=False)
    for x in (X, ZEROS):
        expected = model(x).numpy()
        bound = 2e-3 * np.abs(expected).max() + 1e-10
        np.testing.assert_allclose(answers(path, x), expected, rtol=0, atol=bound)


def test_all_others_are_float16_and_nothing_is_converted_again(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(400, bias_initializer="ones"), layers.Dense(2)]
    )
    model.layers[-1].bias.assign([1.0, 2.0])
    partners = []
    monkeypatch.setattr(float16, "partners", lambda *files: partners.append(files))
    path = kd.export_tflite(model, tmp_path / "a.tflite", "float16", verbose=False)
    assert not partners and kd.read_metadata(path)["operators"]["DEQUANTIZE"]


def test_what_is_clipped_all_the_same_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(float16, "partners", lambda *files: {})
    with pytest.warns(UserWarning, match=r"float16 cannot hold numbers.*They were clipped"):
        kd.export_tflite(large(), tmp_path / "a.tflite", "float16", verbose=False)
