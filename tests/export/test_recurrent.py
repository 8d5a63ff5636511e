"""Recurrent layers become builtin operators, in every quantization."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.models.recurrent import unrolled

MODELS = {
    "bidirectional": lambda x: layers.Bidirectional(layers.LSTM(24))(x),
    "stacked": lambda x: layers.GRU(24)(layers.LSTM(32, return_sequences=True)(x)),
    "sequences": lambda x: layers.GRU(24, return_sequences=True)(x),
    "all": lambda x: layers.TimeDistributed(layers.Dense(8))(
        layers.Bidirectional(layers.GRU(16, return_sequences=True), merge_mode="sum")(x)
    ),
}
TOLERANCES = {"float32": 1e-5, "dynamic": 0.05, "int8": 0.15, "int4": 0.35}


@pytest.mark.promise
@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("bidirectional", "float32"),
        ("bidirectional", "int8"),
        ("stacked", "dynamic"),
        ("stacked", "int4"),
        ("sequences", "int8"),
        ("all", "dynamic"),
    ],
)
def test_outputs_agree_and_training_layers_are_gone(tmp_path, name, quantization):
    keras.utils.set_random_seed(0)
    i = keras.Input((5,), name="words", dtype="int32")
    x = layers.SpatialDropout1D(0.3)(layers.Embedding(40, 32)(i))
    x = MODELS[name](layers.GaussianNoise(0.5)(x))
    model = keras.Model(i, layers.Dropout(0.5)(layers.Dense(40)(x)))
    words = np.random.default_rng(0).integers(0, 40, (33, 5)).astype("int32")
    path = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization,
        representative_data=words,
        calibration="minmax",
        verbose=False,
    )
    expected = model(words, training=False).numpy()
    (given,) = LiteRuntime(path).predict({"words": words}).values()
    assert np.abs(given - expected).max() <= TOLERANCES[quantization] * np.ptp(expected)
    operators = ModelFile(path.read_bytes()).operators()
    assert not [o.name for o in operators if o.custom or "RANDOM" in o.name]
    assert ("WHILE" in {o.name for o in operators}) == (quantization == "float32")


CELLS = {"lstm": layers.LSTM, "gru": layers.GRU, "simple": layers.SimpleRNN}


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_an_unrolled_layer_computes_what_its_loop_does(kind, backwards, zeros, sequences):
    layer = CELLS[kind](
        3,
        return_sequences=sequences,
        return_state=True,
        go_backwards=backwards,
        zero_output_for_mask=zeros,
    )
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(4, 5, 2)).astype("float32"), np.arange(5) < [[2], [5], [0], [3]]
    mask[3] = [True, False, True, True, False]
    i, m = keras.Input((5, 2)), keras.Input((5,), dtype="bool")
    model = keras.Model([i, m], layer(i, mask=m))
    expected = layer(x, mask=mask)
    with unrolled(model, True):
        given = layer(x, mask=mask)
    for a, b in zip(given, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not layer.unroll and layer.zero_output_for_mask == zeros
    assert "inner_loop" not in vars(layer)


@pytest.mark.fast_cases("LSTM")
@pytest.mark.parametrize("layer", [layers.GRU, layers.LSTM])
def test_a_bidirectional_layer_leaves_padding_out(tmp_path, layer):
    keras.utils.set_random_seed(0)
    i = keras.Input((5,), name="words", dtype="int32")
    x = layers.Embedding(40, 8, mask_zero=True)(i)
    model = keras.Model(i, layers.Bidirectional(layer(4, return_sequences=True))(x))
    words = np.random.default_rng(0).integers(1, 40, (16, 5)) * (np.arange(5) < 3)
    words = words.astype("int32")
    path = kd.export_tflite(model, tmp_path / "a.tflite", "dynamic", verbose=False)
    expected = model(words, training=False).numpy()
    (given,) = LiteRuntime(path).predict({"words": words}).values()
    assert np.abs(given - expected).max() <= 0.05 * np.ptp(expected)


@pytest.mark.promise
def test_an_int8_file_larger_than_float32_is_warned_of(tmp_path):
    def network(steps, units):
        inputs = keras.Input((steps, 4))
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GRU(units)(inputs)))

    small = network(24, 6)
    x = np.random.default_rng(0).normal(size=(40, 24, 4)).astype("float32")
    plain = kd.export_tflite(small, tmp_path / "plain.tflite", verbose=False)
    with pytest.warns(UserWarning, match="copy of each recurrent cell") as caught:
        file = kd.export_tflite(small, tmp_path / "int8.tflite", "int8", x, verbose=False)
    size = file.stat().st_size
    assert size > plain.stat().st_size
    (text,) = [str(w.message) for w in caught if "recurrent cell" in str(w.message)]
    assert f"{size:,} bytes" in text

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        large = network(2, 64)
        kd.export_tflite(large, tmp_path / "large.tflite", "int8", x[:, :2], verbose=False)
    assert not [w for w in caught if "recurrent cell" in str(w.message)]
