import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.compression.tf_keras_bridge.bridge import to_tf_keras
from keras_kd.demo.networks import residual_network


def _shake(model):
    """Give every weight a value of its own, so that one copied to the wrong place shows."""
    generator = np.random.default_rng(1)
    for weight in model.weights:
        positive = "variance" in weight.path or "gamma" in weight.path
        weight.assign(generator.uniform(0.2 if positive else -0.5, 0.7, weight.shape))
    return model


def _differences(model, bridged, training=False):
    inputs = [
        np.random.default_rng(2).uniform(-1, 1, (3, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]
    names = [tensor.name for tensor in model.inputs]
    packed = dict(zip(names, inputs, strict=True)) if len(inputs) > 1 else inputs[0]
    ours = tf.nest.flatten(bridged.model(packed, training=training))
    theirs = keras.tree.flatten(model(packed, training=training))
    return [
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(ours, theirs, strict=True)
    ]


def _operators():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, activation="relu6", padding="same")(image)
    y = (x + 3.0) * x
    y = keras.ops.concatenate([y[:, 1:], 1.0 - y[:, 1:]], -1)
    y = layers.Conv2D(4, 1, activation="hard_silu")(y)
    y = layers.Activation("leaky_relu")(y)
    y = layers.GroupNormalization(2)(layers.LayerNormalization()(y))
    y = layers.Reshape((-1, 4))(y)
    y = layers.MultiHeadAttention(2, 4)(y, y)
    return keras.Model(image, [y, layers.Flatten()(y)])


def _depthwise():
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.SeparableConv2D(6, 3, activation="silu"),
            layers.Conv2D(6, 1, groups=3, activation="gelu"),
            layers.LeakyReLU(0.1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="hard_sigmoid"),
        ]
    )


def _nested():
    image = keras.Input((8, 8, 3))
    backbone = residual_network((8, 8, 3), 5, [4], [1], "backbone")
    head = keras.Sequential([layers.Dropout(0.5), layers.Dense(4)], name="head")
    return keras.Model(image, head(backbone(layers.Rescaling(1 / 255.0)(image))))


def _shared():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = layers.Dense(3, activation="relu", name="shared")
    return keras.Model(
        {"a": a, "b": b}, {"o": layers.Concatenate()([dense(a), dense(b)]), "p": dense(a)}
    )


@pytest.mark.parametrize("build", [_operators, _depthwise, _nested, _shared])
def test_outputs_are_equal(build):
    model = _shake(build())
    assert max(_differences(model, to_tf_keras(model))) <= 1e-5


def test_mobilenet_v2_is_equal():
    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    assert max(_differences(model, to_tf_keras(model))) <= 1e-5


def test_batch_statistics_move_alike():
    model = _shake(residual_network((8, 8, 1), 3, [4], [1], "net"))
    bridged = to_tf_keras(model)
    assert max(_differences(model, bridged, training=True)) <= 1e-4
    (name,) = bridged.weight_layers["stem_bn"]
    moving = bridged.model.get_layer(name).moving_mean.numpy()
    np.testing.assert_allclose(moving, np.asarray(model.get_layer("stem_bn").moving_mean), 1e-5)


def test_nested_names_lead_to_the_same_outputs():
    model = _shake(_nested())
    bridged = to_tf_keras(model)
    image = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    backbone = model.get_layer("backbone")
    expected = keras.Model(backbone.inputs, backbone.get_layer("block1_1_out").output)(image / 255)

    layer = bridged.model.get_layer(bridged.layer_names["backbone/block1_1_out"])
    import tf_keras

    received = tf_keras.Model(bridged.model.inputs, layer.output)(image)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_shared_layer_stays_shared():
    bridged = to_tf_keras(_shared())
    assert [layer.name for layer in bridged.model.layers].count("shared") == 1
    assert len(bridged.model.trainable_weights) == 2


def test_hosted_layers_train_and_their_losses_count():
    inputs = keras.Input((4, 4, 2))
    normalised = layers.GroupNormalization(1, gamma_regularizer="l2", name="norm")(inputs)
    model = keras.Model(inputs, layers.Flatten()(normalised))
    bridged = to_tf_keras(model).model
    assert len(bridged.trainable_weights) == 2
    x = tf.random.stateless_uniform((2, 4, 4, 2), (0, 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(bridged(x, training=True) ** 3)
    assert all(gradient is not None for gradient in tape.gradient(loss, bridged.trainable_weights))
    model(x)
    np.testing.assert_allclose(sum(bridged.losses), float(sum(model.losses)), rtol=1e-6)


def test_regularisers_are_kept():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, kernel_regularizer="l2")(inputs))
    bridged = to_tf_keras(model).model
    np.testing.assert_allclose(sum(bridged.losses), float(sum(model.losses)), rtol=1e-6)


def test_mixed_precision_is_bridged_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = residual_network((8, 8, 1), 3, [4], [1], "net")
    finally:
        keras.config.set_dtype_policy("float32")
    bridged = to_tf_keras(model).model
    assert {layer.compute_dtype for layer in bridged.layers if layer.weights} == {"float32"}
    ours, theirs = (net.get_layer("logits").get_weights() for net in (bridged, model))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_environment_is_left_as_found():
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    to_tf_keras(_shared())
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before
    assert tf.keras.__version__.startswith("3.")


def test_subclassed_model_is_refused():
    class Net(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="'net' is a Net, a subclassed model"):
        to_tf_keras(Net(name="net"))


def test_unregistered_layer_is_refused_by_name():
    class Twice(layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)

        def call(self, x):
            return 2.0 * x

        def get_config(self):
            raise NotImplementedError("no config")

    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match=r"Layer 'twice_layer' \(Twice\) cannot be rebuilt"):
        to_tf_keras(keras.Model(inputs, Twice(2, name="twice_layer")(inputs)))


def test_a_model_may_magnify_rounding_errors():
    # The two Kerases normalise in another order, and the mean is far from zero.
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, bias_initializer=keras.initializers.Constant(300.0))(image)
    norm = layers.BatchNormalization()
    model = keras.Model(image, norm(x))
    norm.moving_mean.assign(np.full(8, 300.0))
    norm.moving_variance.assign(np.full(8, 1e-2))
    bridged = to_tf_keras(model)
    assert max(_differences(model, bridged)) > 1e-5


@keras.saving.register_keras_serializable(package="test_bridge")
class Forgetful(layers.Layer):
    """Its configuration leaves out what it adds."""

    def __init__(self, addend=0.0, **kwargs):
        super().__init__(**kwargs)
        self.addend = addend

    def call(self, x):
        return x + self.addend

    def get_config(self):
        return {"name": self.name}


def test_other_values_are_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Forgetful(1e-4)(layers.Dense(2)(inputs)))
    with pytest.raises(ValueError, match=r"returns other values .* differ by 0.0001 at most"):
        to_tf_keras(model)
