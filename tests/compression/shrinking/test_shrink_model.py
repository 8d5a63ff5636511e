import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

import keras_kd as kd


def _norm_relu(x, name):
    return layers.ReLU()(layers.BatchNormalization(name=f"{name}_bn")(x))


def plain():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="a")(inputs)
    x = layers.MaxPooling2D()(layers.ZeroPadding2D()(x))
    x = _norm_relu(layers.Conv2D(6, 3, use_bias=False, name="b")(x), "b")
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalMaxPooling2D()(x)))


def residual():
    inputs = keras.Input((8, 8, 3))
    x = _norm_relu(layers.Conv2D(8, 3, padding="same", name="stem")(inputs), "stem")
    for i, (width, stride) in enumerate([(8, 1), (12, 2), (12, 1)]):
        y = layers.Conv2D(width, 3, stride, padding="same", name=f"{i}_1")(x)
        y = layers.Conv2D(width, 3, padding="same", name=f"{i}_2")(_norm_relu(y, f"{i}_1"))
        y = layers.BatchNormalization(name=f"{i}_2_bn")(y)
        if stride > 1:
            x = layers.Conv2D(width, 1, stride, name=f"{i}_shortcut")(x)
            x = layers.BatchNormalization(name=f"{i}_shortcut_bn")(x)
        x = layers.ReLU()(layers.Add(name=f"{i}_add")([x, y]))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def dense_net():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for i in range(3):
        y = layers.Conv2D(6, 3, padding="same", name=f"grow{i}")(_norm_relu(x, f"grow{i}"))
        x = layers.Concatenate()([x, y])
    x = layers.AveragePooling2D(2)(layers.Conv2D(10, 1, name="transition")(_norm_relu(x, "t")))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


def mobile():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu6", name="stem")(inputs)
    for i in range(2):
        y = layers.Conv2D(16, 1, name=f"{i}_expand")(x)
        y = layers.Activation("silu")(layers.BatchNormalization(name=f"{i}_expand_bn")(y))
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name=f"{i}_deep")(y)
        s = layers.GlobalAveragePooling2D()(y)
        s = layers.Reshape((1, 1, 16))(s)
        s = layers.Conv2D(4, 1, activation="relu", name=f"{i}_squeeze")(s)
        s = layers.Conv2D(16, 1, name=f"{i}_excite")(s)
        s = keras.ops.relu6(s + 3.0) * (1.0 / 6.0)
        y = layers.Conv2D(8, 1, name=f"{i}_project")(layers.Multiply()([y, s]))
        x = layers.Add(name=f"{i}_add")([x, y])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def flattened():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="a")(inputs)
    x = layers.Dense(12, activation="gelu", name="b")(layers.Flatten()(x))
    x = layers.Reshape((2, 2, 3))(layers.Dense(12, activation="tanh", name="c")(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 1)(x))))


def vision_transformer(width=16, depth=2):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, width))(x)
    for i in range(depth):
        y = layers.LayerNormalization(name=f"{i}_norm1")(x)
        y = layers.MultiHeadAttention(4, 6, value_dim=5, name=f"{i}_attention")(y, y)
        x = layers.Add(name=f"{i}_attention_add")([x, y])
        y = layers.Dense(24, activation="gelu", name=f"{i}_up")(
            layers.LayerNormalization(name=f"{i}_norm2")(x)
        )
        x = layers.Add(name=f"{i}_add")([x, layers.Dense(width, name=f"{i}_down")(y)])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def inception_resnet():
    """With layers that keras.applications has of its own, and without scales in batch norms."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(scale=False, name="stem_bn")(x))
    y = layers.Concatenate()([layers.Conv2D(4, n, padding="same", name=f"y{n}")(x) for n in (1, 3)])
    y = layers.Conv2D(8, 1, name="up")(y)
    x = layers.ReLU()(CustomScaleLayer(0.2, name="residual")([x, y]))
    x = LayerScale(1e-6, 8, name="scale")(layers.Conv2D(8, 3, name="last")(x))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.fast_cases("plain-uniform", "mobile-uniform", "inception_resnet-global")
@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(
    "make", [plain, residual, dense_net, mobile, flattened, vision_transformer, inception_resnet]
)
def test_outputs_are_those_with_the_removed_channels_at_zero(make, scope, assert_exact):
    plan, _ = assert_exact(make(), scope=scope, smaller_than=0.85)
    assert plan.macs[1] == kd.model_cost(plan.apply()).macs < plan.macs[0]


# The smallest images that the architectures take.
FAMILIES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_keras_applications(name, assert_exact):
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(FAMILIES[name],) * 2 + (3,),
        classes=10,
        classifier_activation=None,
    )
    plan, small = assert_exact(model)
    assert plan.macs[1] == kd.model_cost(small).macs
    if name == "ConvNeXtTiny":
        # A LayerNormalization at the head of each block takes its mean over what is added up.
        assert plan.parameters[1] / plan.parameters[0] < 0.6
        return
    # Half of the channels on both sides of nearly every kernel.
    assert plan.parameters[1] / plan.parameters[0] < 0.3
    assert plan.macs[1] < 0.3 * plan.macs[0]
    names = {layer.name for layer in plan.layers if layer.reason}
    assert names <= {small.layers[-1].name, "logits", "conv_preds", "normalization", "rescaling"}


@pytest.mark.promise
def test_the_smaller_model_is_an_ordinary_one(tmp_path):
    model = mobile()
    before = [weight.copy() for weight in model.get_weights()]
    small = kd.shrink(model, 0.5)
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(inputs), small(inputs), atol=1e-6)
    kd.export_tflite(small, tmp_path / "small.tflite")
    result = kd.evaluate_tflite(tmp_path / "small.tflite", (inputs, np.zeros(4, "int32")))
    assert result.agreement == 1.0
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small.fit(inputs, np.array([0, 1, 2, 0]), epochs=1, verbose=0)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_taylor_uses_data_and_loss():
    model = plain()
    data = (
        np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"),
        np.arange(32) % 3,
    )
    with pytest.raises(ValueError, match="give `data=`"):
        kd.shrink(model, 0.5, importance="taylor")
    with pytest.raises(ValueError, match="not compiled"):
        kd.shrink(model, 0.5, importance="taylor", data=data)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Channels 0 to 3 lead nowhere: the loss does not depend on them, however large they are.
    kernel = model.get_layer("b").kernel
    values = np.array(kernel)
    values[:, :, :4] = 0
    kernel.assign(values)
    first = np.array(model.get_layer("a").kernel)
    first[..., :4] *= 50
    model.get_layer("a").kernel.assign(first)
    small = kd.shrink(model, 0.5, importance="taylor", data=data, loss=loss)
    np.testing.assert_array_equal(small.get_layer("a").kernel, first[..., 4:])
    by_weight = kd.shrink(model, 0.5, importance="l1", reduction="sum")
    assert not np.array_equal(by_weight.get_layer("a").kernel, first[..., 4:])
    model.compile(loss=loss)
    again = kd.shrink(model, 0.5, importance="taylor", data=data)
    np.testing.assert_array_equal(again.get_layer("a").kernel, first[..., 4:])


def test_subclassed_models_are_refused():
    class Net(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="'net' is a Net, a subclassed model"):
        kd.shrink(Net(name="net"), 0.5)
    with pytest.raises(TypeError, match=r"Shrink takes a keras\.Model\. Received: str"):
        kd.shrink("model", 0.5)
    with pytest.raises(ValueError, match="no input shape yet"):
        kd.shrink(keras.Sequential([layers.Dense(3)]), 0.5)
