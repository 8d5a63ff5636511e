"""What a written file is run on before it is handed over."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.probe import made_up
from keras_kd.litert.runtime import LiteRuntime


def tokens(count: int = 40) -> np.ndarray:
    x = np.random.default_rng(0).integers(1, 50, (count, 8)).astype("int32")
    for i, row in enumerate(x):
        row[2 + i % 7 :] = 0
    return x


def pooled(mask_zero: bool = True) -> keras.Model:
    """The mean of embeddings, which divides by the number of tokens."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8,), dtype="int32", name="tokens")
    z = layers.Embedding(50, 8, mask_zero=mask_zero)(i)
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(z)))


def mean_of_two_inputs() -> keras.Model:
    """As of MiniLM: the mask is an input of its own."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((8,), dtype="int32", name="ids")
    mask = keras.Input((8,), dtype="int32", name="mask")
    weights = keras.ops.cast(mask, "float32")[..., None]
    z = keras.ops.sum(layers.Embedding(50, 8)(ids) * weights, axis=1)
    z = z / keras.ops.sum(weights, axis=1)
    return keras.Model([ids, mask], layers.Dense(3)(z))


def ids_that_begin_at_100() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((8,), dtype="int32", name="tokens")
    z = layers.Embedding(50, 8)(keras.layers.Lambda(lambda ids: ids - 100)(i))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(z)))


@pytest.mark.fast_cases("masked-int8", "mask-as-input-float32", "ids-from-100-dynamic")
@pytest.mark.parametrize("quantization", ["float32", "int8", "dynamic"])
@pytest.mark.parametrize(
    ("make", "data"),
    [
        (pooled, tokens),
        (
            mean_of_two_inputs,
            lambda: {"ids": tokens(), "mask": (tokens() > 0).astype("int32")},
        ),
        (ids_that_begin_at_100, lambda: tokens() + 100),
    ],
    ids=["masked", "mask-as-input", "ids-from-100"],
)
def test_a_file_is_tried_on_real_samples(tmp_path, make, data, quantization):
    model, x = make(), data()
    path = tmp_path / "a.tflite"
    export_tflite(model, path, quantization, representative_data=x, verbose=False)
    runtime = LiteRuntime(path)
    given = x if isinstance(x, dict) else {"tokens": x}
    (output,) = runtime.predict(given).values()
    expected = np.asarray(model(list(x.values()) if isinstance(x, dict) else x))
    assert np.mean(output.argmax(-1) == expected.argmax(-1)) > 0.8


@pytest.mark.parametrize("make", [pooled, mean_of_two_inputs])
def test_made_up_ids_are_not_all_padding(tmp_path, make):
    path = export_tflite(make(), tmp_path / "a.tflite", verbose=False)
    runtime = LiteRuntime(path)
    for array in runtime.example_inputs().values():
        assert array.any()
    (output,) = runtime.predict(runtime.example_inputs()).values()
    assert np.isfinite(output).all()


def test_made_up_ids_are_rows_of_the_table(tmp_path):
    path = export_tflite(pooled(), tmp_path / "a.tflite", verbose=False)
    ids = np.concatenate(
        [LiteRuntime(path).example_inputs(seed)["tokens"].ravel() for seed in range(9)]
    )
    assert 25 < ids.max() < 50 and ids.min() >= 0


def detail(dtype, scale=0.0):
    return {"dtype": dtype, "quantization": (scale, 0)}


@pytest.mark.parametrize(
    "given", [detail(np.float32), detail(np.int32), detail(np.int8, 0.1), detail(np.bool_)]
)
def test_made_up_numbers_are_neither_all_zero_nor_all_equal(given):
    array = made_up(given, (2, 8))
    assert array.dtype == given["dtype"] and array.any() and len(np.unique(array)) > 1


def test_a_file_that_refuses_its_inputs_says_that_they_were_made_up(tmp_path):
    with pytest.raises(ValueError, match="representative_data"):
        export_tflite(ids_that_begin_at_100(), tmp_path / "a.tflite", verbose=False)


class Variance(layers.Layer):
    def call(self, x):
        return keras.ops.var(x, axis=-1, keepdims=True)


@pytest.mark.promise
def test_the_layer_that_litert_refuses_is_named(tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), Variance(name="spread")])
    x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    with pytest.raises(ValueError, match=r"comes from '.*spread"):
        export_tflite(model, tmp_path / "a.tflite", "int16x8", representative_data=x)
