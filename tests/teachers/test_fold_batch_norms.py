from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.teachers import fold_batch_norms


def randomize(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        low, high = (0.5, 2.0) if "variance" in weight.path else (-1.0, 1.0)
        weight.assign(rng.uniform(low, high, weight.shape))
    return model


def norms(model):
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def assert_equal_outputs(model, folded):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(
        folded(x, training=False), expected, atol=1e-5 * np.abs(expected).max()
    )


LAYERS = {
    "dense": ((5,), keras.layers.Dense(4)),
    "dense_over_time": ((6, 5), keras.layers.Dense(4, use_bias=False)),
    "conv1d": ((8, 3), keras.layers.Conv1D(4, 3)),
    "conv2d": ((8, 8, 4), keras.layers.Conv2D(6, 3, strides=2, groups=2, use_bias=False)),
    "conv3d": ((4, 4, 4, 2), keras.layers.Conv3D(3, 2)),
    "depthwise1d": ((8, 3), keras.layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "depthwise2d": ((8, 8, 3), keras.layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "separable1d": ((8, 3), keras.layers.SeparableConv1D(5, 3)),
    "separable2d": ((8, 8, 3), keras.layers.SeparableConv2D(5, 3, depth_multiplier=2)),
    "transpose1d": ((8, 3), keras.layers.Conv1DTranspose(5, 3, strides=2)),
    "transpose2d": ((4, 4, 3), keras.layers.Conv2DTranspose(5, 3, strides=2, use_bias=False)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_outputs_stay(name):
    shape, layer = LAYERS[name]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential(
        [keras.Input(shape), layer, keras.layers.BatchNormalization(), keras.layers.ReLU()]
    )
    folded = fold_batch_norms(randomize(model))
    assert not norms(folded)
    assert [layer.name for layer in folded.layers[1:]] == [layer.name for layer in model.layers]
    assert_equal_outputs(model, folded)


def branches():
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="read_twice")(inputs)
    y = keras.layers.BatchNormalization(name="kept_norm")(x)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="curved")(y)
    y = keras.layers.BatchNormalization(name="after_curve", scale=False)(y)
    y = keras.layers.Conv2D(4, 1, name="plain")(y)
    y = keras.layers.BatchNormalization(name="folded_norm", center=False)(y)
    y = keras.layers.Add()([x, y])
    y = keras.layers.GlobalAveragePooling2D()(y)
    return randomize(keras.Model(inputs, keras.layers.Dense(3)(y), name="branches"))


def test_only_what_nothing_else_reads_is_folded():
    model = branches()
    folded = fold_batch_norms(model)
    assert {norm.name for norm in norms(folded)} == {"kept_norm", "after_curve"}
    assert folded.name == "branches"
    assert len(norms(model)) == 3
    assert_equal_outputs(model, folded)


def test_what_a_hint_reads_stays():
    model = branches()
    assert fold_batch_norms(model, keep=["plain"]) is model


def test_layers_to_keep_are_names_that_exist():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(2, 3, name="conv")(inputs))
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    assert fold_batch_norms(model, keep="conv") is model
    assert fold_batch_norms(model, keep=["conv"]) is model
    with pytest.raises(ValueError, match="'Conv'"):
        fold_batch_norms(model, keep=["Conv"])


def test_nested_models_are_folded_inside():
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 2))
    model = randomize(keras.Model(inputs, keras.layers.Dense(3)(backbone(inputs))))
    folded = fold_batch_norms(model)
    assert not norms(folded)
    assert folded.get_layer("backbone").get_layer("conv").use_bias
    assert_equal_outputs(model, folded)
    assert fold_batch_norms(model, keep=["backbone/conv"]) is model


def test_masks_pass():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(10, 4, mask_zero=True)(inputs)
    x = keras.layers.Dense(5)(x)
    x = keras.layers.BatchNormalization()(x)
    model = randomize(keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x)))
    folded = fold_batch_norms(model)
    tokens = np.array([[1, 2, 0, 0, 0, 0], [3, 4, 5, 6, 0, 0]])
    assert not norms(folded)
    np.testing.assert_allclose(folded(tokens), model(tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=5),
        lambda: keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=5),
    ],
    ids=["MobileNetV2", "ResNet50"],
)
@pytest.mark.promise
def test_networks_of_keras_applications(make):
    model = make()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    folded = fold_batch_norms(model)
    assert norms(model)
    assert not norms(folded)
    assert_equal_outputs(model, folded)


def test_refuses_a_subclassed_model():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="not a functional or sequential model"):
        fold_batch_norms(Subclassed(name="mine"))


def _by_name(inputs):
    x = keras.layers.Dense(5)(inputs)
    return keras.layers.BatchNormalization(name="kept")(x, training=True)


def _block(x):
    return keras.layers.BatchNormalization(name="kept")(keras.layers.Dense(5)(x))


def _in_nested_model(inputs):
    first, second = keras.Input((7,)), keras.Input((7,))
    inner = keras.Model(first, _block(first), name="inner")
    return keras.Model(second, inner(second), name="outer")(inputs, training=True)


def _in_nested_model_within_one_that_folds(inputs):
    first, second = keras.Input((7,)), keras.Input((7,))
    inner = keras.Model(first, _block(first), name="inner")
    x = keras.layers.BatchNormalization(name="folded")(keras.layers.Dense(7)(second))
    return keras.Model(second, inner(x, training=True), name="outer")(inputs)


def _nested_model_called_twice(inputs):
    first = keras.Input((7,))
    inner = keras.Model(first, _block(first), name="inner")
    return keras.layers.Add()([inner(inputs), inner(inputs, training=True)])


def _shared(inputs):
    norm = keras.layers.BatchNormalization(name="kept")
    one, two = keras.layers.Dense(5)(inputs), keras.layers.Dense(5)(inputs)
    return keras.layers.Add()([norm(one), norm(two, training=True)])


@pytest.mark.parametrize(
    "build",
    [
        _by_name,
        _in_nested_model,
        _in_nested_model_within_one_that_folds,
        _nested_model_called_twice,
        _shared,
    ],
)
def test_what_is_called_in_training_mode_is_left_alone(build):
    inputs = keras.Input((7,))
    model = randomize(keras.Model(inputs, build(inputs)))
    folded = fold_batch_norms(model)
    assert {norm.name for norm in norms(folded)} == {"kept"}
    x = np.random.default_rng(1).normal(size=(16, 7)).astype("float32")
    inference = np.asarray(model(x, training=False))
    np.testing.assert_allclose(folded(x, training=False), inference, rtol=1e-4, atol=1e-4)
    before = [np.array(weight) for weight in model.weights]
    expected = np.asarray(model(x))  # updates the moving statistics
    for weight, value in zip(model.weights, before, strict=True):
        weight.assign(value)
    np.testing.assert_allclose(folded(x), expected, rtol=1e-4, atol=1e-4)


def test_what_is_called_in_inference_mode_is_folded():
    inputs = keras.Input((7,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(5)(inputs), training=False)
    model = randomize(keras.Model(inputs, x))
    folded = fold_batch_norms(model)
    assert not norms(folded)
    assert_equal_outputs(model, folded)
