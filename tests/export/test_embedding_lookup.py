from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.embedding_lookup import gathers_to_lookups
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def outputs(path, **inputs):
    return next(iter(LiteRuntime(path).predict(inputs).values()))


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
    assert file.constants().types["INT4"] == 50 * 32
    assert "EMBEDDING_LOOKUP" in file.operator_counts()
    table = model.layers[1].get_weights()[0]
    # One scale for each row: no number is further off than one step of its own word's row.
    step = np.abs(table).max(axis=1, keepdims=True) / 7
    bound = step[words].mean(axis=(1,))
    assert (np.abs(outputs(path, words=words) - model(words)) <= bound + 1e-6).all()


def test_what_is_no_look_up_is_left_as_it_is(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    content = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False).read_bytes()
    assert gathers_to_lookups(content) is content
