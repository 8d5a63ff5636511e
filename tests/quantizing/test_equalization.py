from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.models.calls import trace_calls
from keras_kd.models.features import FeatureReader, find_layer
from keras_kd.models.graph import input_tensors
from keras_kd.models.views import read_as
from keras_kd.quantizing.equalization import equalized


def spread_out(model: keras.Model) -> keras.Model:
    """Give every variable values of many sizes; those of variances stay positive."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        values = generator.normal(size=variable.shape)
        sizes = 10.0 ** generator.uniform(-2, 2, variable.shape[-1:])
        values = np.abs(values) if variable.name == "moving_variance" else values * sizes
        variable.assign(values.astype("float32"))
    return model


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), input_tensors(model)
    )
    changed = equalized(model, trace_calls(model, specs))
    found = {variable.path: np.asarray(variable.value) for variable in model.variables}
    return {**found, **{variable.path: value for variable, value in changed}}, changed


def check_same(model: keras.Model, changed) -> None:
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(model(x, training=False))
    with read_as(model, changed):
        given = np.asarray(model(x, training=False))
    np.testing.assert_allclose(given, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(np.asarray(model(x, training=False)), expected)  # left as it was


def sizes(kernel, axis):
    return np.abs(kernel).max(axis=tuple(i for i in range(kernel.ndim) if i != axis))


def test_channels_of_two_layers_become_one_size():
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(6, 3, activation="relu", name="first")(i)
    model = spread_out(keras.Model(i, layers.Conv2D(5, 3, name="second")(z)))
    found, changed = weights_of(model)
    first, second = (np.asarray(model.get_layer(n).kernel) for n in ("first", "second"))
    factors = np.sqrt(sizes(first, 3) / sizes(second, 2))
    np.testing.assert_allclose(found["first/kernel"], first / factors, rtol=1e-5)
    np.testing.assert_allclose(found["second/kernel"], second * factors[:, None], rtol=1e-5)
    bias = np.asarray(model.get_layer("first").bias)
    np.testing.assert_allclose(found["first/bias"], bias / factors, rtol=1e-5)
    np.testing.assert_allclose(
        sizes(found["first/kernel"], 3), sizes(found["second/kernel"], 2), rtol=1e-5
    )
    assert "second/bias" not in {variable.path for variable, _ in changed}
    check_same(model, changed)


def folded():
    i = keras.Input((8, 8, 3))
    z = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, use_bias=False)(i))
    z = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depth")(
        layers.ReLU()(z)
    )
    z = layers.ZeroPadding2D()(layers.MaxPooling2D()(z))
    return keras.Model(i, layers.Dense(4, name="out")(layers.Flatten()(z)))


def behind_an_activation():
    i = keras.Input((8, 8, 3))
    z = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, activation="relu")(i))
    return keras.Model(i, layers.Conv2D(4, 3, strides=2, name="out")(z))


def transposed():
    i = keras.Input((4, 4, 3))
    z = layers.LeakyReLU()(layers.Conv2DTranspose(6, 3, name="up")(i))
    return keras.Model(i, layers.Conv2DTranspose(2, 3, name="out")(layers.UpSampling2D()(z)))


def nested():
    inner = keras.Sequential(
        [keras.Input((10,)), layers.Dense(6, activation="relu"), layers.Dropout(0.5)], name="inner"
    )
    i = keras.Input((10,))
    return keras.Model(i, layers.Dense(3, name="out")(inner(i)))


@pytest.mark.parametrize("make", [folded, behind_an_activation, transposed, nested])
def test_the_model_computes_the_same(make):
    model = spread_out(make())
    _, changed = weights_of(model)
    assert any("out" in variable.path for variable, _ in changed)
    check_same(model, changed)


def two_consumers():
    i = keras.Input((6,))
    z = layers.Dense(6, activation="relu")(i)
    return keras.Model(i, layers.Add()([layers.Dense(6)(z), z]))


def limited():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(3)(layers.Dense(6, activation="relu6")(i)))


def curved():
    i = keras.Input((6,))
    return keras.Model(i, layers.Dense(3)(layers.Dense(6, activation="gelu")(i)))


def called_twice():
    i = keras.Input((6,))
    shared = layers.Dense(6, activation="relu")
    return keras.Model(i, layers.Dense(3)(shared(shared(i))))


def an_output():
    i = keras.Input((6,))
    z = layers.Dense(6, activation="relu")(i)
    return keras.Model(i, [z, layers.Dense(3)(z)])


@pytest.mark.parametrize("make", [two_consumers, limited, curved, called_twice, an_output])
def test_what_cannot_be_scaled_stays(make):
    _, changed = weights_of(spread_out(make()))
    assert changed == []


@pytest.mark.parametrize("path", ["inner", "inner/dense", "inner/relu", "inner/drop", "pool"])
def test_what_is_given_beside_the_outputs_stays(path):
    inner = [
        layers.Dense(6, name="dense"),
        layers.ReLU(name="relu"),
        layers.Dropout(0.5, name="drop"),
    ]
    i = keras.Input((5, 10))
    z = keras.Sequential([keras.Input((5, 10)), *inner], name="inner")(i)
    z = layers.GlobalAveragePooling1D(name="pool")(z)
    z = layers.Dense(4, activation="relu", name="last")(z)
    model = spread_out(keras.Model(i, layers.Dense(3, name="out")(z)))
    trace = trace_calls(model, tf.TensorSpec((None, 5, 10)))
    layer = find_layer(model, path)
    changed = equalized(model, trace, [layer])
    assert {variable.path.split("/")[0] for variable, _ in changed} == {"last", "out"}
    reader, x = FeatureReader(model, [path]), np.random.default_rng(1).normal(size=(4, 5, 10))
    _, expected = reader.run(model, x.astype("float32"), training=False)
    with read_as(model, changed):
        _, found = reader.run(model, x.astype("float32"), training=False)
    np.testing.assert_array_equal(found[path], expected[path])
    assert equalized(model, trace, [layers.Dense(3)]) == []  # a layer that the pass does not call


def test_channels_repeat_behind_flatten_in_a_normalization_too():
    i = keras.Input((6, 6, 3))
    z = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", name="conv")(i))
    z = layers.BatchNormalization(name="norm")(z)
    model = spread_out(keras.Model(i, layers.Dense(2)(z)))
    found, changed = weights_of(model)
    assert changed and not np.allclose(found["conv/kernel"], np.asarray(model.layers[1].kernel))
    check_same(model, changed)


def test_a_dead_channel_stays():
    i = keras.Input((6,))
    model = keras.Model(i, layers.Dense(3, name="out")(layers.Dense(6, activation="relu")(i)))
    spread_out(model)
    kernel, bias = model.layers[1].get_weights()
    kernel[:, 2] = 0.0
    model.layers[1].set_weights([kernel, bias])
    found, changed = weights_of(model)
    assert np.isfinite(np.concatenate([value.ravel() for value in found.values()])).all()
    np.testing.assert_array_equal(found["out/kernel"][2], np.asarray(model.layers[2].kernel)[2])
    check_same(model, changed)
