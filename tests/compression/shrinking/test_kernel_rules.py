import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd


def _images(*between, shape=(6, 6, 3), first=None):
    inputs = keras.Input(shape)
    rank = len(shape) - 1
    conv = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}[rank]
    x = (first or conv(8, 1, name="first"))(inputs)
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _images(layers.Conv1D(6, 2, name="x"), shape=(6, 3)),
        lambda: _images(layers.Conv3D(6, 2, name="x"), shape=(3, 3, 3, 2)),
        lambda: _images(layers.Conv2D(6, 3, dilation_rate=2, name="x")),
        lambda: _images(layers.Conv1DTranspose(6, 2, name="x"), shape=(6, 3)),
        lambda: _images(layers.Conv2DTranspose(6, 3, strides=2, name="x")),
        lambda: _images(layers.Conv3DTranspose(4, 2, name="x"), shape=(3, 3, 3, 2)),
        lambda: _images(layers.DepthwiseConv1D(2, depth_multiplier=3, name="x"), shape=(6, 3)),
        lambda: _images(layers.DepthwiseConv2D(3, depth_multiplier=2, name="x")),
        lambda: _images(layers.SeparableConv1D(6, 2, depth_multiplier=2, name="x"), shape=(6, 3)),
        lambda: _images(layers.SeparableConv2D(6, 3, depth_multiplier=3, name="x")),
    ],
)
def test_convolutions(make, assert_exact):
    _, small = assert_exact(make())
    assert small.get_layer("first").filters == 4


def test_grouped_convolution_of_few_groups_keeps_their_number(assert_exact):
    _, small = assert_exact(_images(layers.Conv2D(12, 3, groups=2, name="x")))
    x = small.get_layer("x")
    assert (x.groups, x.filters, x.kernel.shape) == (2, 6, (3, 3, 2, 6))


def test_grouped_convolution_of_many_groups_loses_whole_groups(assert_exact):
    _, small = assert_exact(_images(layers.Conv2D(8, 3, groups=4, name="x")))
    x = small.get_layer("x")
    assert (x.groups, x.filters, x.kernel.shape) == (2, 4, (3, 3, 2, 4))
    assert small.get_layer("first").filters == 4


def test_grouped_convolution_of_the_input(assert_exact):
    first = layers.Conv2D(8, 1, groups=2, name="first")
    _, small = assert_exact(_images(shape=(6, 6, 4), first=first))
    assert small.get_layer("first").kernel.shape == (1, 1, 2, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(6, return_sequences=True, name="x"),
        lambda: layers.GRU(6, reset_after=False, name="x"),
        lambda: layers.SimpleRNN(6, name="x"),
        lambda: layers.EinsumDense("abc,cd->abd", (5, 6), bias_axes="d", name="x"),
        lambda: layers.EinsumDense("...c,cd->...d", 6, bias_axes="d", activation="relu", name="x"),
    ],
)
def test_sequences(make, assert_exact):
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="first")(inputs)
    x = layers.Dense(4, name="second")(make()(x))
    x = layers.Dense(2)(layers.Flatten()(x) if len(x.shape) == 2 else x)
    _, small = assert_exact(keras.Model(inputs, x))
    assert small.get_layer("first").units == 3
    assert small.get_layer("x").output.shape[-1] == 3


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
@pytest.mark.parametrize("by_hand", [False, True])
def test_recurrent_layers_that_take_a_mask(kind, by_hand, assert_exact):
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 6, mask_zero=not by_hand, name="embedding")(tokens)
    mask = keras.ops.not_equal(tokens, 0)
    layer = kind(6, name="x", **({"reset_after": False} if kind is layers.GRU else {}))
    x = layer(x, mask=mask) if by_hand else layer(x)
    _, small = assert_exact(keras.Model(tokens, layers.Dense(2)(x)))
    assert small.get_layer("x").units == 3


def test_recurrent_layers_that_take_a_state():
    inputs, state = keras.Input((5, 4)), keras.Input((6,))
    x = layers.GRU(6, name="x")(layers.Dense(4)(inputs), initial_state=state)
    with pytest.raises(ValueError, match="is given a state"):
        kd.shrink(keras.Model([inputs, state], layers.Dense(2)(x)), 0.5)


def test_gru_that_resets_after():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.Dense(2)(layers.GRU(6, name="x")(inputs)))
    weights = [np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.weights)]
    for index in (0, 1, 2):
        weights[index].reshape(*weights[index].shape[:-1], 3, 6)[..., 1] = 0  # unit 1 is silent
    weights[3][1] = 0
    model.set_weights(weights)
    small = kd.shrink(model, 1 / 6)
    x = np.random.default_rng(9).normal(size=(3, 5, 4)).astype("float32")
    assert small.get_layer("x").units == 5
    np.testing.assert_allclose(small(x), model(x), atol=1e-6)


def test_einsum_with_a_head_axis(assert_exact):
    inputs = keras.Input((5, 4))
    x = layers.EinsumDense("abc,cde->abde", (None, 4, 3), name="x")(inputs)
    x = layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f", name="y")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    _, small = assert_exact(model, exclude="x")
    assert small.get_layer("y").kernel.shape == (4, 3, 3)
    small = kd.shrink(model, 0.5)
    assert small.get_layer("x").kernel.shape == (4, 2, 2)
    assert small.get_layer("y").kernel.shape == (2, 2, 3)


def test_embedding(assert_exact):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 6, mask_zero=True, name="tokens")(inputs)
    x = layers.GlobalAveragePooling1D()(layers.Dense(4, name="x")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    _, small = assert_exact(model)
    assert small.get_layer("tokens").output_dim == 3


def test_channels_first_are_understood():
    inputs = keras.Input((3, 6, 6))
    x = layers.Conv2D(8, 3, data_format="channels_first", name="first")(inputs)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.Flatten(data_format="channels_first")(x)
    small = kd.shrink(keras.Model(inputs, layers.Dense(2, name="out")(x)), 0.5)
    assert small.get_layer("first").filters == 4
    assert small.get_layer("out").kernel.shape == (4 * 4 * 4, 2)


def test_an_activation_that_mixes_channels_keeps_them(assert_exact):
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="softmax", name="attention")(inputs)
    x = layers.Dense(6, activation="relu", name="x")(x)
    plan, small = assert_exact(keras.Model(inputs, layers.Dense(2)(x)))
    assert small.get_layer("attention").units == 8
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert "the activation 'softmax' of 'attention' (Dense) may mix" in reasons["attention"]


def test_shared_layers_lose_the_same_channels_everywhere(assert_exact):
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    x = layers.Dense(4, activation="tanh", name="x")(inputs)
    x = shared(shared(x))
    _, small = assert_exact(keras.Model(inputs, layers.Dense(2)(x)))
    assert small.get_layer("shared").kernel.shape == (2, 2)
    assert len(small.get_layer("shared")._inbound_nodes) == 2
    # A call with the model's input, whose size is fixed, fixes what it shares.
    x = layers.Dense(2)(shared(shared(inputs)) + x)
    with pytest.raises(ValueError, match="is called with several inputs, of which one keeps its"):
        kd.shrink_plan(keras.Model(inputs, x), 0.5)
