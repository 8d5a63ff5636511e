from __future__ import annotations

import importlib.util
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.int4 import gathers_to_lookups
from keras_kd.litert.constants import count_constants
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def outputs(path, **inputs):
    return next(iter(LiteRuntime(path).predict(inputs).values()))


def test_convolutions_and_dense_layers(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((12, 12, 1), name="image")
    x = layers.Conv2D(16, 3, activation="relu")(i)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.Dense(128, activation="relu")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(i, layers.Dense(16)(x))
    x = np.random.default_rng(0).random((40, 12, 12, 1), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = kd.export_tflite(model, tmp_path / "a.tflite", "int4", verbose=False)
    sizes = {
        q: kd.export_tflite(model, tmp_path / f"{q}.tflite", q, verbose=False).stat().st_size
        for q in ("dynamic", "float32")
    }
    types = count_constants(ModelFile(path.read_bytes())).types
    assert types["INT4"] == 9 * 16 * 64 + 64 * 128 + 128 * 16
    assert types["INT8"] == 9 * 16  # too few for 4 bits
    assert path.stat().st_size < 0.75 * sizes["dynamic"] < 0.3 * sizes["float32"]
    expected = model(x, training=False).numpy()
    assert np.abs(outputs(path, image=x) - expected).max() < 0.2 * np.ptp(expected)
    assert np.corrcoef(outputs(path, image=x).ravel(), expected.ravel())[0, 1] > 0.98


def test_what_has_no_kernel_of_4_bits_is_named_once(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 128), name="image")
    x = layers.DepthwiseConv2D(3)(i)
    model = keras.Model(i, layers.Dense(32)(layers.GlobalAveragePooling2D()(x)))
    with pytest.warns(UserWarning) as said:
        path = kd.export_tflite(model, tmp_path / "a.tflite", "int4", verbose=False)
    (message,) = [str(w.message) for w in said]
    assert "the weights of DEPTHWISE_CONV_2D in 8 bits" in message
    types = count_constants(ModelFile(path.read_bytes())).types
    assert (types["INT8"], types["INT4"]) == (9 * 128, 128 * 32)


def test_the_package_is_asked_for_before_the_conversion(tmp_path, monkeypatch):
    found = importlib.util.find_spec

    def without(name, *args):
        return None if name == "ai_edge_quantizer" else found(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ValueError, match=r'pip install "keras-kd\[int4\]"'):
        kd.export_tflite(keras.Sequential([keras.Input((2,))]), tmp_path / "a.tflite", "int4")


@pytest.mark.parametrize("batch_size", [1, None])
@pytest.mark.promise
def test_embeddings_are_stored_in_4_bits(tmp_path, batch_size):
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="words", dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 32)(i))
    model = keras.Model(i, x)
    words = np.random.default_rng(0).integers(0, 50, (9, 6)).astype("int32")
    path = kd.export_tflite(
        model, tmp_path / "a.tflite", "int4", batch_size=batch_size, verbose=False
    )
    file = ModelFile(path.read_bytes())
    assert count_constants(file).types["INT4"] == 50 * 32
    assert "EMBEDDING_LOOKUP" in file.operator_counts()
    table = model.layers[1].get_weights()[0]
    # One scale for each row: no number is further off than one step of its own word's row.
    step = np.abs(table).max(axis=1, keepdims=True) / 7
    bound = step[words].mean(axis=(1,))
    assert (np.abs(outputs(path, words=words) - model(words)) <= bound + 1e-6).all()


def test_what_is_no_look_up_is_left_as_it_is(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    file = ModelFile(kd.export_tflite(model, tmp_path / "a.tflite", verbose=False).read_bytes())
    before = file.operator_counts()
    assert not gathers_to_lookups(file)
    assert file.operator_counts() == before
