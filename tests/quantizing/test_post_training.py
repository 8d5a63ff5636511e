from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.quantizing.post_training import PostTraining


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 1.0, size=(count, 6, 6, 3)).astype("float32")


def network(use_bias: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((6, 6, 3))
    z = layers.Conv2D(8, 3, use_bias=use_bias, name="conv")(i)
    z = layers.ReLU()(layers.BatchNormalization(name="norm")(z))
    z = layers.DepthwiseConv2D(3, name="depth")(z)
    return keras.Model(i, layers.Dense(4, name="logits")(layers.Flatten()(z)))


def outputs(model, quantization, x):
    with quantization.applied():
        return np.asarray(model(x, training=False))


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse"])
def test_activations_are_rounded_and_the_model_stays(ranges):
    model, x = network(), images()
    before, expected = model.get_weights(), np.asarray(model(x, training=False))
    given = outputs(model, PostTraining(model, [x]).quantization(ranges), x)
    error = np.sqrt(np.square(given - expected).mean()) / expected.std()
    assert 1e-4 < error < 0.1
    for weight, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)


def test_a_model_without_channels_to_equalize_is_refused():
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(3)(i), name="alone")
    with pytest.raises(ValueError, match="'alone' has no channels to equalize"):
        PostTraining(model, [np.zeros((2, 4), "float32")]).quantization("mse", equalize=True)


def rounded(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    scale = np.abs(kernel).max(axis=axes, keepdims=True) / 127
    return np.round(kernel / scale) * scale


@pytest.mark.parametrize("use_bias", [True, False])
def test_biases_make_up_for_rounded_kernels(use_bias):
    model, x = network(use_bias), images()
    made = PostTraining(model, [x[:32], x[32:]]).quantization(None, correct=True)
    found = {variable.path: np.asarray(value) for variable, value in made.weights}
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    kernel = np.asarray(conv.kernel, "float64")
    error = (rounded(kernel, (0, 1, 2)) - kernel).sum((0, 1))
    shift = x.astype("float64").mean((0, 1, 2)) @ error
    if use_bias:
        np.testing.assert_allclose(found["conv/bias"], -shift, rtol=1e-3, atol=1e-7)
    else:  # the mean that the normalization takes away
        moved = np.asarray(norm.moving_mean) + shift
        np.testing.assert_allclose(found["norm/moving_mean"], moved, rtol=1e-3, atol=1e-7)
    reader = keras.Model(model.input, model.get_layer("depth").input)
    means = np.asarray(reader(x, training=False), "float64").mean((0, 1, 2))
    kernel = np.asarray(model.get_layer("depth").kernel, "float64")
    error = (rounded(kernel, (0, 1)) - kernel).sum((0, 1))[:, 0]
    np.testing.assert_allclose(found["depth/bias"], -means * error, rtol=1e-3, atol=1e-7)


def test_corrected_biases_move_the_mean_back():
    model, x = network(), images(256)
    engine = PostTraining(model, [x])
    expected = np.asarray(model(x, training=False)).mean(0)
    kernels = {layer.name: layer for layer in model.layers if hasattr(layer, "kernel")}
    errors = []
    for correct in (False, True):
        made = engine.quantization(None, equalize=True, correct=correct)
        values = {id(variable): np.asarray(value) for variable, value in made.weights}
        copied = keras.models.clone_model(model)
        copied.set_weights([values.get(id(v), np.asarray(v.value)) for v in model.weights])
        for name in kernels:
            layer = copied.get_layer(name)
            kernel = np.asarray(layer.kernel)
            axes = (0, 1) if name == "depth" else tuple(range(kernel.ndim - 1))
            layer.kernel.assign(rounded(kernel, axes))
        errors.append(np.abs(np.asarray(copied(x, training=False)).mean(0) - expected).mean())
    assert errors[1] < 0.5 * errors[0]


class WeightedSum(layers.Add):
    """A merging layer with code of its own, in `call`."""

    def call(self, inputs):
        return sum((0.5**i) * x for i, x in enumerate(inputs))


class Distance(layers.Maximum):
    """The same in the function that Keras's `call` takes from it."""

    def _merge_function(self, inputs):
        return keras.ops.sqrt(sum(keras.ops.square(x) for x in inputs) + 1.0)


class Shifted(layers.BatchNormalization):
    """A normalization with code of its own."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * 2.0 + 1.0


@pytest.mark.parametrize("make", [WeightedSum, Distance, layers.Add])
def test_what_a_derived_layer_computes_is_what_is_rounded(make):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    parts = [layers.Conv2D(4, 3, padding="same")(inputs) for _ in range(3)]
    x = make()(parts)
    if make is WeightedSum:
        x = Shifted()(x)
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))
    expected = np.asarray(model(images(), training=False))
    given = outputs(model, PostTraining(model, [images()]).quantization("minmax"), images())
    assert np.sqrt(np.square(given - expected).mean()) / expected.std() < 0.05
