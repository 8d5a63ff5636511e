"""Files that Keras 2 wrote give the outputs that Keras 2 gives."""

import json
import os
import pathlib

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as k2

import keras_kd as kd
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.models.keras_2_operations import OPERATION_LAYERS, inline_operations

layers = k2.layers
HARD = {"recurrent_activation": "hard_sigmoid"}


def chain(shape, *made):
    return lambda: k2.Sequential([k2.Input(shape), *(make() for make in made)])


def depthwise():
    inputs = k2.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.ReLU(6.0)(x)
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(x)
    y = layers.BatchNormalization()(y)
    z = layers.SeparableConv2D(8, 3, strides=2, padding="same", activation="swish")(x)
    x = layers.Add()([y, z])
    x = layers.Conv2DTranspose(4, 3, strides=2)(x)
    x = layers.LeakyReLU(0.1)(layers.Dropout(0.2)(layers.SpatialDropout2D(0.2)(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return k2.Model(inputs, layers.Dense(4, activation="softmax")(x))


def branches_of_one_shape():
    # Nested and side by side, so that layers could be taken for one another.
    a, b = k2.Input((4,), name="a"), k2.Input((4,), name="b")

    def branch(name):
        inputs = k2.Input((4,))
        x = layers.Dense(4, name=f"{name}_z")(inputs)
        y = layers.Dense(4, name=f"{name}_a", activation="tanh")(inputs)
        x = layers.BatchNormalization()(layers.Dense(4)(x))
        return k2.Model(inputs, layers.concatenate([x, y]), name=name)

    shared = branch("shared")
    x = layers.add([shared(a), shared(b), branch("second")(b)])
    first, second = layers.Dense(4, name="z")(x), layers.Dense(4, name="a_head")(x)
    return k2.Model([a, b], [first, layers.multiply([first, second])])


def operations():
    x = inputs = k2.Input((8,))
    x = layers.Dense(4, activation="relu")(x)
    a = tf.nn.relu6(1.0 - x * 2.0 + 1.5)
    b = tf.concat([a, x * a, tf.abs(x) ** 2.0], axis=-1)
    c = tf.reshape(b, (-1, 3, 4))
    c = tf.pad(c, [[0, 0], [1, 0], [0, 0]])[:, 1:, ::-1]
    d = tf.reduce_mean(c, axis=1, keepdims=True) / 2.0
    e = tf.matmul(c, c, transpose_b=True)
    f = tf.math.l2_normalize(tf.squeeze(d, 1), axis=-1)
    g = tf.stack([x, tf.clip_by_value(x, 0.1, 0.4)], axis=1)
    g = tf.nn.softmax(tf.transpose(tf.cast(g, "float32"), (0, 2, 1)))
    return k2.Model(inputs, [d, e, f, tf.expand_dims(g, -1), tf.math.add_n([x, a, x])])


def nested_operations():
    inner = k2.Input((4,))
    part = k2.Model(inner, layers.Dense(4)(tf.nn.silu(layers.Dense(4)(inner)) - 0.5), name="part")
    return k2.Sequential([k2.Input((4,)), layers.Dense(4), part, layers.Dense(2)])


def attention():
    inputs = k2.Input((None,), dtype="int32")
    x = layers.Embedding(10, 8)(inputs)
    y = layers.MultiHeadAttention(2, 4, value_dim=3)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.Dense(8, activation="gelu")(x)
    return k2.Model(inputs, layers.GlobalMaxPooling1D()(x))


def masked():
    inputs = k2.Input((7,), dtype="int32")
    x = layers.Embedding(10, 6, mask_zero=True, input_length=7)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, **HARD))(x)
    x = layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(3)], return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(5, activation="hard_sigmoid"))(x)
    return k2.Model(inputs, layers.GRU(4, reset_after=False)(x))


def sequences():
    a, b = k2.Input((5, 3)), k2.Input((4, 2))
    _, h, c = layers.LSTM(4, return_state=True)(a)
    x = layers.LSTM(4, return_sequences=True)(b, initial_state=[h, c])
    x = layers.GRU(4, return_sequences=True)(x, initial_state=h)
    x = layers.Attention(use_scale=True)([x, a[:, :, :1] * tf.ones((4,))])
    x = layers.Bidirectional(layers.GRU(4))(x)
    return k2.Model({"a": a, "b": b}, {"out": x, "state": layers.Dense(2)(c)})


def dictionaries():
    a, b = k2.Input((5,), name="a"), k2.Input((5,), name="b")
    inner = k2.Model({"a": a, "b": b}, {"sum": layers.add([a, b]), "dense": layers.Dense(2)(b)})
    x, y = k2.Input((5,), name="x"), k2.Input((5,), name="y")
    found = inner({"a": layers.Dense(5)(x), "b": y})
    return k2.Model([x, y], [found["dense"], layers.Dense(3)(found["sum"])])


def normalized():
    layer = layers.Normalization()
    layer.adapt(np.arange(24.0).reshape(8, 3))
    return k2.Sequential([k2.Input((3,)), layer, layers.Rescaling(0.5, 1.0), layers.Dense(2)])


def normalized_operations():
    layer = layers.Normalization()
    layer.adapt(np.arange(24.0).reshape(8, 3))
    x = inputs = k2.Input((3,))
    return k2.Model(inputs, layers.Dense(2)(tf.nn.relu(layer(x)) * 2.0))


def normalized_inside():
    def part(function):
        layer = layers.Normalization()
        layer.adapt(np.arange(24.0).reshape(8, 3))
        inner = k2.Input((3,))
        return k2.Model(inner, layers.Dense(2)(function(layer(inner))))

    steps = k2.Input((5, 3))
    x = layers.TimeDistributed(part(lambda x: tf.nn.relu(x) * 2.0))(steps)
    y = layers.TimeDistributed(part(layers.ReLU()))(steps)
    return k2.Model(steps, [x, y, part(lambda x: x + 1.0)(steps[:, 0])])


def wrapped_models():
    inner = k2.Input((6,))
    part = k2.Model(inner, layers.Dense(4)(tf.abs(layers.Dense(4)(inner)) * 0.5))
    chained = k2.Sequential([k2.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    inputs = k2.Input((5, 6))
    x = layers.TimeDistributed(part)(inputs)
    return k2.Model(inputs, layers.TimeDistributed(chained)(x))


def of_other_shapes():
    x = inputs = k2.Input((6, 4))
    y, z = layers.Dense(5)(x), layers.Dense(9)(x)
    return k2.Model(inputs, layers.MultiHeadAttention(2, 3)(x, y, key=z))


def unequal_depths():
    # In Keras 3 the graph is deeper: operations for masks, and several for one of TensorFlow.
    inputs = k2.Input((6, 4))
    x = layers.Masking(0.1)(layers.Dense(4)(inputs))
    y = tf.math.l2_normalize(layers.Dense(4)(inputs), axis=-1)
    z = layers.Dense(4)(layers.Dense(4)(layers.Dense(4)(inputs)))
    x = layers.LSTM(4, return_sequences=True)(x)
    part = k2.Model(inputs, [z, x, y])
    a, b, c = part(outer := k2.Input((6, 4)))
    return k2.Model(outer, layers.Dense(2)(layers.concatenate([a, b, c])))


def unbuilt_shape():
    model = k2.Sequential([layers.Dense(3, activation="elu"), layers.Dense(2)])
    model.build((None, 4))
    return model


def first_layer_with_shape():
    return k2.Sequential(
        [layers.Conv1D(3, 2, input_shape=(6, 2), padding="causal"), layers.MaxPooling1D(2),
         layers.UpSampling1D(2), layers.Flatten(), layers.Dense(2, batch_input_shape=(None, 18))]
    )  # fmt: skip


def in_half_precision():
    policy = k2.mixed_precision.Policy("mixed_float16")
    return k2.Sequential(
        [k2.Input((4,)), layers.Dense(8, dtype=policy), layers.Dense(3, dtype="float32")]
    )


MODELS = {
    "depthwise": depthwise,
    "branches": branches_of_one_shape,
    "operations": operations,
    "nested operations": nested_operations,
    "attention": attention,
    "masked": masked,
    "sequences": sequences,
    "dictionaries": dictionaries,
    "normalized": normalized,
    "normalized operations": normalized_operations,
    "normalized inside": normalized_inside,
    "wrapped models": wrapped_models,
    "other shapes": of_other_shapes,
    "unequal depths": unequal_depths,
    "unbuilt": unbuilt_shape,
    "first shape": first_layer_with_shape,
    "half": in_half_precision,
    "image": chain(
        (8, 8, 3),
        lambda: layers.RandomFlip("horizontal"),
        lambda: layers.RandomRotation(0.1),
        lambda: layers.Resizing(6, 6),
        lambda: layers.UpSampling2D(interpolation="bilinear"),
        lambda: layers.ZeroPadding2D(1),
        lambda: layers.Cropping2D(1),
        lambda: layers.AveragePooling2D(2, padding="same"),
        lambda: layers.Permute((2, 1, 3)),
        lambda: layers.PReLU(shared_axes=[1, 2]),
        lambda: layers.GroupNormalization(3),
        lambda: layers.UnitNormalization(),
        lambda: layers.Activation("hard_sigmoid"),
        lambda: layers.DepthwiseConv2D(2, dilation_rate=2),
        lambda: layers.Reshape((-1, 3)),
        lambda: layers.SeparableConv1D(4, 2),
        lambda: layers.DepthwiseConv1D(2),
        lambda: layers.Conv1DTranspose(2, 2),
        lambda: layers.Softmax(),
        lambda: layers.GaussianNoise(0.1),
        lambda: layers.ActivityRegularization(0.1),
    ),
    "volume": chain(
        (4, 4, 4, 2),
        lambda: layers.Conv3D(2, 2),
        lambda: layers.Conv3DTranspose(2, 2),
        lambda: layers.SpatialDropout3D(0.1),
        lambda: layers.ThresholdedReLU(0.1),
    ),
    "video": chain(
        (3, 5, 5, 1),
        lambda: layers.ConvLSTM2D(2, 2),
        lambda: layers.Flatten(),
        lambda: layers.RepeatVector(2),
        lambda: layers.SimpleRNN(3, unroll=True),
    ),
}  # fmt: skip


def shaken(model):
    """Give every weight a value of its own, moving averages included."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.uniform(0.1, 0.9, w.shape).astype(w.dtype) if w.dtype.kind == "f" else w
            for w in model.get_weights()
        ]
    )
    return model


def inputs_of(model):
    rng = np.random.default_rng(1)
    found = []
    for tensor in tf.nest.flatten(model.inputs):
        shape = [size or 5 for size in tensor.shape]
        whole = tensor.dtype.is_integer
        drawn = rng.integers(0, 10, shape) if whole else rng.normal(size=shape)
        found.append(drawn.astype(tensor.dtype.name))
    return found if len(found) > 1 else found[0]


def check_equal(old, new, x=None):
    x = inputs_of(old) if x is None else x
    expected, found = [tf.nest.flatten(model(x, training=False)) for model in (old, new)]
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        tolerance = 2e-3 if "float16" in str([layer.dtype_policy for layer in new.layers]) else 1e-5
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)
        masks = getattr(a, "_keras_mask", None), get_keras_mask(b)
        assert (masks[0] is None) == (masks[1] is None)
        if masks[0] is not None:
            np.testing.assert_array_equal(masks[1], masks[0])


@pytest.mark.fast_cases("depthwise-.h5", "normalized inside-.h5", "video-.keras")
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_outputs_are_those_of_keras_2(tmp_path, make, suffix):
    old = make()
    old = old if "normalized" in make.__name__ else shaken(old)
    path = tmp_path / f"old{suffix}"
    old.save(path)
    content = path.read_bytes()
    new = kd.teachers.load(path)
    assert isinstance(new, keras.Model)
    check_equal(old, new)
    assert path.read_bytes() == content
    new.save(tmp_path / "new.keras")
    check_equal(old, keras.saving.load_model(tmp_path / "new.keras"))


def test_operations_become_those_of_keras_3(tmp_path):
    operations().save(tmp_path / "old.h5")
    new = kd.teachers.load(tmp_path / "old.h5")
    assert {type(layer).__name__ for layer in new.layers} == {"InputLayer", "Dense"}


def test_it_is_checked_and_exported(tmp_path):
    old = shaken(depthwise())
    old.save(tmp_path / "old.h5")
    assert "DepthwiseConv2D" in str(kd.check(kd.teachers.load(tmp_path / "old.h5")))


def positions(dropout=0.0):
    ids, places = k2.Input((6,), dtype="int32"), k2.Input((6,), dtype="int32")
    x = layers.add([layers.Embedding(10, 8, mask_zero=True)(ids), layers.Embedding(10, 8)(places)])
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 4, dropout=dropout)(x, x)
        x = layers.LayerNormalization()(layers.add([x, y]))
        x = layers.add([x, layers.Dense(8)(layers.Dense(16, activation="relu")(x))])
    ends = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)]
    return k2.Model([ids, places], [*ends, x])


def sentences():
    ids = k2.Input((4, 6), dtype="int32")
    x = layers.TimeDistributed(layers.Embedding(10, 4, mask_zero=True))(ids)
    x = layers.TimeDistributed(layers.Bidirectional(layers.GRU(3, return_sequences=True)))(x)
    return k2.Model(ids, layers.GRU(4)(layers.TimeDistributed(layers.GRU(3))(x)))


def sentences_of_a_model():
    words = chain((6,), lambda: layers.Embedding(10, 4, mask_zero=True), lambda: layers.GRU(3))()
    ids = k2.Input((4, 6))
    return k2.Model(ids, layers.TimeDistributed(words)(ids))


def two_masks(merge, **kwargs):
    def model():
        a, b = k2.Input((6,), dtype="int32"), k2.Input((6,), dtype="int32")
        x, y = [layers.Embedding(10, 4, mask_zero=True)(ids) for ids in (a, b)]
        whole = layers.Embedding(10, 4)(b)
        pairs = [[x, y], [x, whole], [whole, y], [x, layers.Dense(4)(x)], [x, y, whole]]
        if kwargs or merge is layers.Subtract:
            pairs = [pair for pair in pairs if len(pair) == 2]
        if kwargs:
            pairs = [pairs[0]]
        merges = [merge(**kwargs)(pair) for pair in pairs]
        return k2.Model([a, b], [*merges, *map(layers.GlobalAveragePooling1D(), merges)])

    return model


def lost_masks():
    x = layers.Embedding(10, 4, mask_zero=True)(ids := k2.Input((6,), dtype="int32"))
    kept = [layers.Identity(), layers.Rescaling(2.0), layers.Normalization(None, 1.0, 4.0)]
    return k2.Model(ids, [layers.GlobalAveragePooling1D()(layer(x)) for layer in kept])


def masks_of_nested_models():
    a, b = k2.Input((6, 4)), k2.Input((6, 4))
    inner = k2.Model([a, b], layers.add([a, b]))
    ids = k2.Input((6,), dtype="int32")
    words = chain((6,), lambda: layers.Embedding(10, 4, mask_zero=True), lambda: layers.Dense(4))()
    x, y = words(ids), layers.Embedding(10, 4)(ids)
    sums = [inner([layers.Embedding(10, 4, mask_zero=True)(ids), y]), layers.add([y, x])]
    return k2.Model(ids, [*sums, *map(layers.GlobalAveragePooling1D(), sums)])


MASKS = {
    **{
        kind.__name__: two_masks(kind)
        for kind in (
            layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum,
            layers.Minimum, layers.Concatenate,
        )
    },
    "one after another": two_masks(layers.Concatenate, axis=1),
    "positions": positions,
    "dropout": lambda: positions(0.1),
    "sentences": sentences,
    "sentences of a model": sentences_of_a_model,
    "lost": lost_masks,
    "nested": masks_of_nested_models,
}  # fmt: skip


@pytest.mark.fast_cases(
    "Add", "Multiply", "Concatenate", "one after another", "positions", "lost", "nested"
)
@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
def test_masks_are_those_of_keras_2(tmp_path, make):
    old = make()
    rng = np.random.default_rng(0)
    for weight in old.weights:
        weight.assign(rng.normal(size=weight.shape))
    old.save(tmp_path / "old.h5")
    x = [rng.integers(0, 4, (5, *tensor.shape[1:])) for tensor in old.inputs]
    x = x if len(x) > 1 else x[0]
    new = kd.teachers.load(tmp_path / "old.h5")
    check_equal(old, new, x)
    new.save(tmp_path / "new.keras")
    check_equal(old, keras.saving.load_model(tmp_path / "new.keras"), x)
    graph = tf.function(lambda given: new(given, training=False))
    for a, b in zip(tf.nest.flatten(old(x)), tf.nest.flatten(graph(x)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def kinds_in(path):
    return [type(layer).__name__ for layer in kd.teachers.load(path).layers]


def test_layers_are_keras_s_own_where_masks_agree(tmp_path):
    x = layers.Embedding(10, 4, mask_zero=True)(ids := k2.Input((6,), dtype="int32"))
    y = layers.add([x, layers.Dense(4)(layers.TimeDistributed(layers.Dense(4))(x))])
    z = layers.Rescaling(2.0)(layers.multiply([other := k2.Input((6, 4)), other]))
    k2.Model([ids, other], [y, z]).save(tmp_path / "old.h5")
    assert not [kind for kind in kinds_in(tmp_path / "old.h5") if "OfKeras2" in kind]
    k2.Model([ids, other], layers.add([x, other])).save(tmp_path / "old.h5")
    assert "AddOfKeras2" in kinds_in(tmp_path / "old.h5")
    k2.Model(other, z).save(tmp_path / "old.h5")
    assert kinds_in(tmp_path / "old.h5") == ["InputLayer", "Multiply", "Rescaling"]


def test_layers_with_masks_of_keras_2_are_layers_to_the_package(tmp_path):
    shaken(positions()).save(tmp_path / "old.h5")
    new = kd.teachers.load(tmp_path / "old.h5")
    attention = 4 * 6 * 8 * 8 + 2 * 2 * 6 * 6 * 4
    cost = kd.model_cost(new)
    assert cost.not_counted == () and cost.macs == 2 * (attention + 2 * 6 * 8 * 16)
    report = str(kd.check(new, [kd.Shrink(0.5), kd.QuantizeAware()]))
    assert "AddOfKeras2" in report and "not known" not in report and "not supported" not in report


def on(*args, **kwargs):
    return lambda kind, x: kind(*args, **kwargs)(x)


def merged(*args, **kwargs):
    return lambda kind, x: kind(*args, **kwargs)([x, layers.Dense(x.shape[-1])(x)])


def attended(*given, **kwargs):
    return lambda kind, x: kind(2, 3, **kwargs)(x, layers.Dense(5)(x), *given)


def of_boundaries(kind, x):
    return kind(bin_boundaries=[-1.0, 0.0, 1.0])(x)


FLAT, STEPS, IMAGE, VOLUME = (6,), (6, 4), (8, 8, 4), (4, 4, 4, 2)
LINEAR = {"use_bias": False, "activation": "hard_sigmoid"}
SAME, STATES = {"padding": "same"}, {"return_sequences": True, "return_state": True}
ACTIVATIONS = (
    "elu", "exponential", "gelu", "hard_sigmoid", "linear", "mish", "relu", "selu", "sigmoid",
    "softmax", "softplus", "softsign", "swish", "tanh", tf.nn.log_softmax, tf.nn.leaky_relu,
    tf.nn.relu6, tf.nn.gelu, tf.nn.silu, tf.nn.softmax, tf.exp,
)  # fmt: skip
POOLING = [on(2), on(3, 2, **SAME)]
TRANSPOSED = [on(3, 3), on(3, 2, strides=2, output_padding=1), on(2, 3, **SAME, **LINEAR)]
RECURRENT = [
    on(5, activation="elu", go_backwards=True, **HARD),
    on(5, use_bias=False, unroll=True),
    on(5, **STATES),
]
# Each with what is not its default; of `STEPS` with and without a mask.
EVERY_LAYER = {
    "Activation": (FLAT, [on(function) for function in ACTIVATIONS]),
    "ActivityRegularization": (STEPS, [on(0.1, 0.2)]),
    "Add": (STEPS, [merged()]),
    "AdditiveAttention": (STEPS, [merged(use_scale=False), merged(dropout=0.1)]),
    "AlphaDropout": (STEPS, [on(0.1)]),
    "Attention": (STEPS, [merged(use_scale=True), merged(score_mode="concat", dropout=0.1)]),
    "Average": (STEPS, [merged()]),
    "AveragePooling1D": (STEPS, POOLING),
    "AveragePooling2D": (IMAGE, POOLING),
    "AveragePooling3D": (VOLUME, POOLING),
    "BatchNormalization": (
        STEPS,
        [on(axis=1), on(scale=False, epsilon=0.1), on(center=False, momentum=0.9)],
    ),
    "Bidirectional": (
        STEPS,
        [
            lambda kind, x: kind(layers.LSTM(3, return_sequences=True), merge_mode="ave")(x),
            lambda kind, x: kind(layers.GRU(3, **STATES), merge_mode="sum")(x),
            lambda kind, x: kind(layers.LSTM(3), merge_mode=None)(x),
            lambda kind, x: kind(layers.LSTM(3), backward_layer=layers.GRU(3, go_backwards=True))(
                x
            ),
        ],
    ),
    "CategoryEncoding": (("int32", 6), [on(9, output_mode="count"), on(9)]),
    "CenterCrop": (IMAGE, [on(5, 4)]),
    "Concatenate": (STEPS, [merged(), merged(axis=1)]),
    "Conv1D": (
        STEPS,
        [on(4, 3, padding="causal", dilation_rate=2), on(4, 2, strides=2, groups=2, **LINEAR)],
    ),
    "Conv1DTranspose": (STEPS, TRANSPOSED),
    "Conv2D": (IMAGE, [on(4, 3, dilation_rate=2), on(4, (3, 2), strides=2, groups=2, **LINEAR)]),
    "Conv2DTranspose": (IMAGE, [*TRANSPOSED, on(2, (3, 2), strides=(3, 2), output_padding=(2, 0))]),
    "Conv3D": (VOLUME, [on(4, 2, strides=2, **LINEAR), on(2, 3, dilation_rate=2, **SAME)]),
    "Conv3DTranspose": (VOLUME, TRANSPOSED),
    "ConvLSTM1D": ((4, 6, 2), [on(3, 3, **SAME, **STATES), on(2, 3, strides=2, **HARD)]),
    "ConvLSTM2D": ((4, 6, 6, 2), [on(3, 3, **SAME, **STATES), on(2, 3, strides=2, **LINEAR)]),
    "ConvLSTM3D": ((2, 4, 4, 4, 2), [on(2, 2, return_sequences=True)]),
    "Cropping1D": (STEPS, [on((1, 2))]),
    "Cropping2D": (IMAGE, [on(((1, 0), (2, 1)))]),
    "Cropping3D": (VOLUME, [on(((1, 0), (2, 1), (0, 1)))]),
    "Dense": (
        STEPS,
        [on(5, **LINEAR), on(3, kernel_initializer="identity", kernel_regularizer="l2")],
    ),
    "DepthwiseConv1D": (STEPS, [on(3, depth_multiplier=2, **SAME), on(2, strides=2, **LINEAR)]),
    "DepthwiseConv2D": (IMAGE, [on(3, dilation_rate=2, **SAME), on(2, depth_multiplier=2)]),
    "Discretization": (FLAT, [of_boundaries]),
    "Dot": (STEPS, [merged(2, normalize=True), merged((1, 1))]),
    "Dropout": (STEPS, [on(0.2, noise_shape=None, seed=1)]),
    "ELU": (STEPS, [on(0.5)]),
    "EinsumDense": (STEPS, [on("abc,cd->abd", (None, 5), bias_axes="d", activation="relu")]),
    "Embedding": (("int32", 6), [on(9, 4), on(9, 4, mask_zero=True)]),
    "Flatten": (IMAGE, [on(), on(data_format="channels_first")]),
    "GRU": (STEPS, [*RECURRENT, on(5, reset_after=False, return_sequences=True)]),
    "GaussianDropout": (STEPS, [on(0.2)]),
    "GaussianNoise": (STEPS, [on(0.2)]),
    "GlobalAveragePooling1D": (STEPS, [on(), on(keepdims=True)]),
    "GlobalAveragePooling2D": (IMAGE, [on(keepdims=True), on(data_format="channels_first")]),
    "GlobalAveragePooling3D": (VOLUME, [on(keepdims=True)]),
    "GlobalMaxPooling1D": (STEPS, [on(), on(keepdims=True)]),
    "GlobalMaxPooling2D": (IMAGE, [on(keepdims=True), on(data_format="channels_first")]),
    "GlobalMaxPooling3D": (VOLUME, [on(keepdims=True)]),
    "GroupNormalization": (IMAGE, [on(2, epsilon=0.1), on(-1, scale=False), on(4, axis=1)]),
    "HashedCrossing": (
        ("int32", 1),
        [lambda kind, x: kind(7, output_mode="one_hot")((x, layers.Hashing(3)(x)))],
    ),
    "Hashing": (("int32", 6), [on(5), on(5, salt=3), on(5, mask_value=0)]),
    "Identity": (STEPS, [on()]),
    "IntegerLookup": (
        ("int64", 6),
        [
            on(vocabulary=[3, 5, 7]),
            on(vocabulary=[3, 5, 7], output_mode="multi_hot", num_oov_indices=2),
            on(vocabulary=[3, 5, 7], mask_token=0, oov_token=9, invert=True),
        ],
    ),
    "LSTM": (STEPS, [*RECURRENT, on(5, unit_forget_bias=False, return_sequences=True)]),
    "LayerNormalization": (
        STEPS,
        [on(axis=[1, 2]), on(axis=1, epsilon=0.1), on(axis=[-1], scale=False), on(center=False)],
    ),
    "LeakyReLU": (STEPS, [on(), on(0.1)]),
    "Masking": (STEPS, [on(), on(0.5)]),
    "MaxPooling1D": (STEPS, POOLING),
    "MaxPooling2D": (IMAGE, POOLING),
    "MaxPooling3D": (VOLUME, POOLING),
    "Maximum": (STEPS, [merged()]),
    "Minimum": (STEPS, [merged()]),
    "MultiHeadAttention": (
        STEPS,
        [
            attended(value_dim=4, output_shape=7, use_bias=False),
            attended(dropout=0.2),
            lambda kind, x: kind(2, 3)(x, x, return_attention_scores=True)[1] * 2.0,
            lambda kind, x: kind(2, 3)(x, x, layers.Dense(9)(x), use_causal_mask=True),
            lambda kind, x: kind(2, 3)(x, x, attention_mask=x[:, tf.newaxis, :, 0] > 0.0),
            lambda kind, x: kind(2, 3, attention_axes=(1, 2))(*2 * [layers.Reshape((3, 2, 4))(x)]),
        ],
    ),
    "Multiply": (STEPS, [merged()]),
    "Normalization": (
        STEPS,
        [
            on(mean=[1.0] * 4, variance=[4.0] * 4),
            on(mean=2.0, variance=4.0, invert=True, axis=None),
            on(mean=np.ones((6, 4)), variance=np.full((6, 4), 0.5), axis=[1, 2]),
        ],
    ),
    "PReLU": (IMAGE, [on(shared_axes=[1, 2]), on()]),
    "Permute": (IMAGE, [on((3, 1, 2))]),
    "RNN": (
        STEPS,
        [
            lambda kind, x: kind(
                [layers.LSTMCell(4), layers.GRUCell(5, reset_after=False)], return_sequences=True
            )(x),
            lambda kind, x: kind(layers.LSTMCell(4, **HARD), return_state=True)(x),
            lambda kind, x: kind(layers.SimpleRNNCell(4, use_bias=False), go_backwards=True)(x),
        ],
    ),
    "RandomBrightness": (IMAGE, [on(0.2, value_range=(0.0, 1.0))]),
    "RandomContrast": (IMAGE, [on(0.2)]),
    "RandomFlip": (IMAGE, [on("vertical", seed=1)]),
    "RandomRotation": (IMAGE, [on(0.1, fill_mode="constant", interpolation="nearest")]),
    "RandomTranslation": (IMAGE, [on(0.1, 0.2, fill_mode="wrap", fill_value=1.0)]),
    "RandomZoom": (IMAGE, [on(0.1, (0.1, 0.2))]),
    "ReLU": (STEPS, [on(2.0, 0.1, 0.3), on(threshold=0.3)]),
    "RepeatVector": (FLAT, [on(3)]),
    "Rescaling": (STEPS, [on(2.0, 0.5), on([1.0, 2.0, 3.0, 4.0], offset=[0.1, 0.2, 0.3, 0.4])]),
    "Reshape": (STEPS, [on((-1, 3)), on((4, 6))]),
    "Resizing": (
        IMAGE,
        [on(5, 11), on(5, 11, "nearest"), on(5, 11, crop_to_aspect_ratio=True), on(9, 3, "area")],
    ),
    "SeparableConv1D": (STEPS, [on(4, 3, strides=2, depth_multiplier=2), on(4, 2, **LINEAR)]),
    "SeparableConv2D": (IMAGE, [on(4, 3, strides=2, depth_multiplier=2), on(4, 2, **LINEAR)]),
    "SimpleRNN": (STEPS, [on(5, go_backwards=True), on(5, use_bias=False, **STATES)]),
    "Softmax": (IMAGE, [on(axis=1), on(axis=[1, 2]), on(axis=[-1])]),
    "SpatialDropout1D": (STEPS, [on(0.2)]),
    "SpatialDropout2D": (IMAGE, [on(0.2)]),
    "SpatialDropout3D": (VOLUME, [on(0.2)]),
    "Subtract": (STEPS, [merged()]),
    "TimeDistributed": (
        STEPS,
        [
            lambda kind, x: kind(layers.Dense(3, **LINEAR))(x),
            lambda kind, x: kind(layers.BatchNormalization())(x),
            lambda kind, x: kind(k2.Sequential([layers.Dense(3), layers.Dense(2)]))(x),
        ],
    ),
    "UnitNormalization": (STEPS, [on(axis=[1, 2]), on(axis=1), on()]),
    "UpSampling1D": (STEPS, [on(3)]),
    "UpSampling2D": (IMAGE, [on((2, 3)), on(interpolation="bilinear"), on(3, None, "bicubic")]),
    "UpSampling3D": (VOLUME, [on((2, 1, 2))]),
    "ZeroPadding1D": (STEPS, [on((1, 2))]),
    "ZeroPadding2D": (IMAGE, [on(((1, 0), (2, 1)))]),
    "ZeroPadding3D": (VOLUME, [on(((1, 0), (2, 1), (0, 1)))]),
}
# Bases, code, cells (which stand in `RNN`), what is refused, what Keras 2 cannot make, and what
# takes no numbers.
OTHER_LAYERS = {
    "GRUCell", "InputLayer", "LSTMCell", "Lambda", "Layer", "RandomCrop", "SimpleRNNCell",
    "SpectralNormalization", "StackedRNNCells", "StringLookup", "TextVectorization", "Wrapper",
}  # fmt: skip


def test_every_layer_is_there():
    both = {
        kind.__name__
        for name, kind in vars(layers).items()
        if isinstance(kind, type) and issubclass(kind, layers.Layer) and hasattr(keras.layers, name)
    }
    assert both - OTHER_LAYERS == set(EVERY_LAYER)


LONG = ("Bidirectional", "GRU", "LSTM", "RNN")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.promise] if n in LONG else []) for n in EVERY_LAYER],
)
def test_every_layer_with_arguments(tmp_path, name):
    shape, makers = EVERY_LAYER[name]
    dtype, *size = shape if isinstance(shape[0], str) else ("float32", *shape)
    inputs = k2.Input(size, dtype=dtype)
    starts = [inputs] if name not in LONG else []
    if shape == STEPS:
        starts.append(layers.Masking(0.0)(inputs))
    old = k2.Model(inputs, [make(getattr(layers, name), x) for x in starts for make in makers])
    rng = np.random.default_rng(0)
    for weight in old.weights:
        if "float" in weight.dtype.name:
            weight.assign(rng.uniform(0.2, 0.8, weight.shape))
    old.save(tmp_path / "old.h5")
    x = np.random.default_rng(1).normal(size=(5, *size))
    x = (np.abs(x * 4) % 9 if "int" in dtype else x).astype(dtype)
    if shape == STEPS:
        x[:2, 4:], x[2, :2] = 0.0, 0.0
    check_equal(old, kd.teachers.load(tmp_path / "old.h5"), x)


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x


def test_classes_that_are_passed_are_used(tmp_path):
    old_class = type("Doubled", (layers.Layer,), {"call": lambda self, x: 2.0 * x})
    old = k2.Sequential([k2.Input((3,)), layers.Dense(2), old_class()])
    old.save(tmp_path / "old.h5")
    new = kd.teachers.load(tmp_path / "old.h5", custom_objects={"Doubled": Doubled})
    check_equal(old, new)
    with pytest.raises(ValueError, match="Doubled"):
        kd.teachers.load(tmp_path / "old.h5")


def test_masks_of_classes_that_are_passed_count(tmp_path):
    def compute_mask(self, inputs, mask=None):
        return inputs[..., 0] > 0.0

    given = {}
    for library in (k2, keras):
        body = {"call": lambda self, x: 1.0 * x, "compute_mask": compute_mask}
        given[library] = type("Positive", (library.layers.Layer,), body)
    inputs = k2.Input((6, 4))
    x = layers.add([given[k2]()(inputs), inputs])
    old = k2.Model(inputs, [x, layers.GlobalAveragePooling1D()(x)])
    old.save(tmp_path / "old.h5")
    new = kd.teachers.load(tmp_path / "old.h5", custom_objects={"Positive": given[keras]})
    check_equal(old, new)


def of(layer, shape=(6, 2)):
    return lambda: k2.Sequential([k2.Input(shape), layer()])


def split():
    inputs = k2.Input((4,))
    return k2.Model(inputs, tf.split(inputs, 2, axis=1))


@pytest.mark.parametrize(
    ("make", "token"),
    [
        (of(lambda: layers.LSTM(3, time_major=True, name="here")), "'here'.*`time_major`"),
        (of(lambda: layers.LocallyConnected1D(2, 2, name="here")), "'here'.*LocallyConnected1D"),
        (of(lambda: layers.RandomHeight(0.1, name="here"), (4, 4, 1)), "'here'.*RandomHeight"),
        (of(lambda: layers.Activation(tf.math.lgamma)), "lgamma"),
        (split, "'tf.split'.*`split`"),
        (of(lambda: layers.Activation(tf.sin, name="here")), "'here'.*activation=`sin`"),
        (
            of(lambda: layers.SeparableConv1D(2, 2, padding="causal", name="here")),
            "'here' is refused by Keras 3's SeparableConv1D: .*causal",
        ),
        (of(lambda: layers.RandomCrop(3, 3, name="here"), (4, 4, 1)), "'here'.*RandomCrop.*middle"),
        (
            lambda: k2.Sequential(
                [k2.Input((None,)), layers.Discretization(num_bins=2, name="here")]
            ),
            "'here'.*`adapt`.*bin_boundaries",
        ),
    ],
    ids=[
        "time_major", "LocallyConnected1D", "RandomHeight", "function", "operation", "sin",
        "causal", "RandomCrop", "adapt",
    ],
)  # fmt: skip
def test_what_has_no_equal_is_named(tmp_path, make, token):
    make().save(tmp_path / "old.h5")
    with pytest.raises(ValueError, match=f"(?s)old.h5' is a file of Keras 2.*{token}"):
        kd.teachers.load(tmp_path / "old.h5")


def test_operations_do_not_take_the_names_of_layers(tmp_path):
    x = inputs = k2.Input((4,))
    for name in ("add", "multiply", "concatenate", "add_1"):
        x = layers.Dense(4, name=name)(x)
    old = k2.Model(inputs, tf.concat([x + inputs * 2.0, x + 1.0], -1))
    old.save(tmp_path / "old.h5")
    keras.utils.clear_session()  # as in a new process
    check_equal(old, kd.teachers.load(tmp_path / "old.h5"))


def test_slices(tmp_path):
    # As HDF5: Keras 2 cannot write an ellipsis to a `.keras` file.
    x = inputs = k2.Input((6, 4))
    parts = [x[..., ::-1], x[..., 1], x[:, tf.newaxis, ..., 1:3], x[:, -1], x[1:]]
    old = k2.Model(inputs, [layers.Rescaling(2.0)(part) for part in parts])
    old.save(tmp_path / "old.h5")
    check_equal(old, kd.teachers.load(tmp_path / "old.h5"))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_tables(tmp_path, suffix):
    words, numbers = k2.Input((3,), dtype="string"), k2.Input((3,), dtype="int64")
    text = k2.Input((1,), dtype="string")
    old = k2.Model(
        [words, numbers, text],
        [
            layers.StringLookup(vocabulary=["a", "b"], mask_token="", num_oov_indices=2)(words),
            layers.StringLookup(
                vocabulary=["a", "b"], idf_weights=[0.3, 0.7], output_mode="tf_idf"
            )(words),
            layers.IntegerLookup(vocabulary=[3, 5], output_mode="count")(numbers),
            layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(text),
        ],
    )
    old.save(tmp_path / f"old{suffix}")
    x = [
        tf.constant([["a", "c", "b"], ["b", "", "b"]]),
        tf.constant([[3, 4, 5], [5, 5, 1]], "int64"),
        tf.constant([["A, b"], ["c"]]),
    ]
    check_equal(old, kd.teachers.load(tmp_path / f"old{suffix}"), x)


def test_tables_that_were_adapted_are_named(tmp_path):
    layer = layers.StringLookup(name="here")
    layer.adapt(np.array(["a", "b"]))
    k2.Sequential([k2.Input((3,), dtype="string"), layer]).save(tmp_path / "old.keras")
    with pytest.raises(ValueError, match=r"'here' found by `adapt`.*vocabulary="):
        kd.teachers.load(tmp_path / "old.keras")


def test_a_sequential_of_the_oldest_files(tmp_path):
    old = shaken(first_layer_with_shape())
    old.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"] = config["config"]["layers"][1:]  # without its input
        file.attrs["model_config"] = json.dumps(config)
    check_equal(old, kd.teachers.load(tmp_path / "old.h5"))


@pytest.mark.parametrize("name", ["vww_96", "ad01", "pretrainedResnet"])
def test_published_files(name):
    folder = pathlib.Path(os.environ.get("KERAS_KD_MLPERF_TINY", "mlperf_tiny"))
    path = folder / f"{name}.h5"
    if not path.is_file():
        pytest.skip(f"'{path}' is absent: set KERAS_KD_MLPERF_TINY to the folder of MLPerf Tiny's")
    check_equal(k2.models.load_model(path, compile=False), kd.teachers.load(path))


def test_operations_are_inlined_in_a_compiled_model():
    function = OPERATION_LAYERS["TFOpLambda"]("math.square", name="squared")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(function(inputs)), name="compiled")
    model.compile("sgd", lambda y_true, y_pred: y_pred)
    made = inline_operations(model)
    x = np.arange(6.0, dtype="float32").reshape(2, 3)
    np.testing.assert_allclose(made(x), model(x), atol=1e-6)
    assert not made.compiled and model.compiled and made.name == "compiled"
