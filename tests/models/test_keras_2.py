"""Files that Keras 2 wrote give the outputs that Keras 2 gives."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as k2

import keras_kd as kd

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


def check_equal(old, new):
    x = inputs_of(old)
    expected, found = [tf.nest.flatten(model(x, training=False)) for model in (old, new)]
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        tolerance = 2e-3 if "float16" in str([layer.dtype_policy for layer in new.layers]) else 1e-5
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_outputs_are_those_of_keras_2(tmp_path, make, suffix):
    old = make()
    old = old if make in (normalized, normalized_operations) else shaken(old)
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


def of(layer, shape=(6, 2)):
    return lambda: k2.Sequential([k2.Input(shape), layer()])


def split():
    inputs = k2.Input((4,))
    return k2.Model(inputs, tf.split(inputs, 2, axis=1))


@pytest.mark.parametrize(
    ("make", "token"),
    [
        (of(lambda: layers.LSTM(3, time_major=True, name="here")), r"`time_major`.*'here'"),
        (of(lambda: layers.LocallyConnected1D(2, 2, name="here")), "'here'.*LocallyConnected1D"),
        (of(lambda: layers.RandomHeight(0.1, name="here"), (4, 4, 1)), "'here'.*RandomHeight"),
        (of(lambda: layers.Activation(tf.math.lgamma)), "lgamma"),
        (split, "'tf.split'.*`split`"),
    ],
    ids=["time_major", "LocallyConnected1D", "RandomHeight", "function", "operation"],
)
def test_what_has_no_equal_is_named(tmp_path, make, token):
    make().save(tmp_path / "old.h5")
    with pytest.raises(ValueError, match=f"(?s)old.h5.*{token}"):
        kd.teachers.load(tmp_path / "old.h5")


@pytest.mark.parametrize("name", ["vww_96", "ad01", "pretrainedResnet"])
def test_published_files(name):
    folder = pathlib.Path(os.environ.get("KERAS_KD_MLPERF_TINY", "mlperf_tiny"))
    path = folder / f"{name}.h5"
    if not path.is_file():
        pytest.skip(f"'{path}' is absent: set KERAS_KD_MLPERF_TINY to the folder of MLPerf Tiny's")
    check_equal(k2.models.load_model(path, compile=False), kd.teachers.load(path))
