import keras
import pytest
from keras import layers

import keras_kd as kd


def _model(*between, end=True):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    for layer in between:
        x = layer(x)
    x = layers.Flatten()(x) if end else x
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize(
    "between",
    [
        [lambda: layers.Permute((3, 1, 2))],
        [lambda: layers.Reshape((16, 8)), lambda: layers.Conv1D(4, 3)],
        [lambda: layers.Reshape((-1, 8)), lambda: layers.Permute((2, 1))],
        [lambda: layers.Reshape((2, 8, 8))],
        [lambda: layers.UpSampling2D(2), lambda: layers.Cropping2D(1)],
        [lambda: layers.AveragePooling2D(2), lambda: layers.ZeroPadding2D(1)],
        [lambda: layers.GlobalMaxPooling2D(keepdims=True), lambda: layers.UpSampling2D(2)],
        [lambda: layers.Resizing(3, 3), lambda: layers.LeakyReLU(), lambda: layers.Rescaling(2.0)],
        [lambda: layers.GlobalAveragePooling2D(), lambda: layers.RepeatVector(3)],
        [lambda: layers.Activation("mish"), lambda: layers.SpatialDropout2D(0.5)],
        [lambda: layers.Flatten(), lambda: layers.Reshape((4, 4, 8)), lambda: layers.Conv2D(3, 1)],
        [lambda: layers.Reshape((4, 4, 2, 4)), lambda: layers.Conv3D(3, 1)],
    ],
)
def test_channels_pass(between, assert_exact):
    _, small = assert_exact(_model(*(make() for make in between)))
    assert small.get_layer("first").filters == 4


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.Softmax(), "divides by a sum over these channels"),
        (lambda: layers.Activation("softmax"), "divides by a sum over these channels"),
        (lambda: layers.Rescaling([1.0] * 8), "holds one number for each of them"),
        (lambda: layers.Lambda(lambda x: x[..., ::-1], name="turn"), "enter 'turn' \\(Lambda\\)"),
        (lambda: layers.TimeDistributed(layers.Dense(4), name="each"), "enter 'each'"),
    ],
)
def test_what_is_not_understood_keeps_the_channels(layer, reason):
    with pytest.raises(ValueError, match=rf"finds no channel to remove.*{reason}"):
        kd.shrink(_model(layer(), layers.Flatten(), end=False), 0.5)


def test_merging_layers_broadcast(assert_exact):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="x")(inputs)
    y = layers.Conv2D(8, 3, name="y")(inputs)
    gate = layers.Conv2D(1, 3, activation="sigmoid", name="gate")(inputs)
    x = layers.Multiply()([layers.Subtract()([x, y]), gate])
    x = layers.Average()([x, layers.Maximum()([y, layers.Minimum()([x, y])])])
    plan, small = assert_exact(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    assert small.get_layer("x").filters == small.get_layer("y").filters == 4
    assert "spread over many channels" in next(r for r in plan.layers if r.name == "gate").reason


def test_concatenation_with_the_input_and_along_rows(assert_exact):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="x")(inputs)
    y = layers.Conv2D(7, 1, name="y")(layers.Concatenate()([x, inputs]))
    z = layers.Conv2D(7, 1, name="z")(layers.Concatenate()([inputs, x, inputs]))
    x = layers.Concatenate(axis=1)([y, z])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    _, small = assert_exact(model, exclude=["y", "z"])
    assert small.get_layer("y").kernel.shape == (1, 1, 5, 7)
    small = kd.shrink(model, 0.5)
    # y and z are added up along the rows: they lose the same channels.
    assert small.get_layer("y").filters == small.get_layer("z").filters == 4


@pytest.mark.parametrize("shape", [(None, 1, 1, 8), (None, 4, 4, 1), (None, 1, 1, 1)])
@pytest.mark.parametrize("kind", [layers.Dropout, layers.AlphaDropout])
def test_dropout_of_whole_channels_can_be_trained(assert_exact, kind, shape):
    _, small = assert_exact(_model(kind(0.5, noise_shape=shape, name="drop")))
    assert tuple(small.get_layer("drop").noise_shape)[-1] == min(shape[-1], 4)
    small(keras.ops.ones((2, 6, 6, 3)), training=True)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("masked", ["both", "first"])
def test_concatenation_with_masks(assert_exact, masked, axis):
    tokens, others = keras.Input((6,), dtype="int32"), keras.Input((6, 5))
    embedded = layers.Embedding(10, 8, mask_zero=True, name="embedding")(tokens)
    x = layers.Conv1D(8, 1, name="x")(embedded)
    y = layers.Conv1D(8, 1, name="y")(embedded if masked == "both" else others)
    joined = layers.Concatenate(axis=axis, name="joined")([x, y])
    outputs = layers.Dense(2)(layers.GlobalAveragePooling1D()(joined))
    _, small = assert_exact(keras.Model([tokens, others], outputs), smaller_than=0.95)
    assert small.get_layer("x").filters == small.get_layer("y").filters == 4
