import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd


def test_nested_models_stay_nested_and_shrink_inside(assert_exact):
    inner_inputs = keras.Input((4, 4, 8))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner_conv")(inner_inputs)
    inner = keras.Model(inner_inputs, layers.Add()([x, inner_inputs]), name="inner")
    head = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, activation="relu", name="d"), layers.Dense(3)],
        name="head",
    )
    inputs = keras.Input((6, 6, 3))
    x = inner(inner(layers.Conv2D(8, 3, name="stem")(inputs)))
    model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))
    plan, small = assert_exact(model)
    assert small.get_layer("inner").inputs[0].shape == (None, 4, 4, 4)
    assert small.get_layer("inner").get_layer("inner_conv").kernel.shape == (3, 3, 4, 4)
    assert isinstance(small.get_layer("head"), keras.Sequential)
    assert small.get_layer("head").get_layer("d").units == 3
    assert "inner/inner_conv" in str(plan)


def test_a_sequential_model_stays_one(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", name="a"),
            layers.Conv2D(8, 3, padding="same", name="b"),
            layers.Flatten(),
            layers.Dense(2),
        ],
        name="net",
    )
    small = kd.shrink(model, 0.5, drop="b")
    assert isinstance(small, keras.Sequential)
    assert small.name == "net" and small.inputs[0].name == "image"
    assert small.layers[0].name == "a"
    assert len(small.layers) == 3
    small.save(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(x), small(x), atol=1e-6)


def test_structures_of_inputs_and_outputs_stay():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(8, name="x")(layers.Concatenate()([a, b]))
    outputs = {"one": layers.Dense(2, name="o1")(x), "two": layers.Dense(3, name="o2")(x)}
    small = kd.shrink(keras.Model({"a": a, "b": b}, outputs), 0.5)
    result = small({"a": np.ones((2, 4)), "b": np.ones((2, 3))})
    assert {name: tuple(value.shape) for name, value in result.items()} == {
        "one": (2, 2),
        "two": (2, 3),
    }
    assert small.get_layer("x").units == 4


def test_settings_of_layers_stay():
    inputs = keras.Input((4,))
    x = layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1), name="x", trainable=False)(
        inputs
    )
    model = keras.Model(inputs, layers.Dense(2, dtype="mixed_float16", name="out")(x))
    small = kd.shrink(model, 0.5)
    assert small.get_layer("x").trainable is False
    assert small.get_layer("x").kernel_regularizer.l2 == pytest.approx(0.1)
    assert small.get_layer("out").dtype_policy.name == "mixed_float16"


def test_a_shared_layer_without_weights_may_see_several_widths(assert_exact):
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((4,))
    x = relu(layers.Dense(6, name="a")(inputs))
    x = relu(layers.Dense(10, name="b")(x))
    _, small = assert_exact(keras.Model(inputs, layers.Dense(2)(x)))
    assert small.get_layer("b").kernel.shape == (3, 5)


@keras.saving.register_keras_serializable(package="tests_rebuild")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(5, name="inside")

    def build(self, shape):
        self.inside.build(shape)

    def call(self, x):
        return self.inside(x)


def test_what_is_not_understood_is_copied_whole(assert_exact):
    inputs = keras.Input((4,))
    x = layers.Dense(8, name="a")(inputs)
    x = Subclassed(name="inner")(x)
    x = layers.Dense(8, activation="tanh", name="b")(x)
    plan, small = assert_exact(keras.Model(inputs, layers.Dense(2)(x)), smaller_than=0.9)
    assert small.get_layer("a").units == 8
    assert small.get_layer("b").units == 4
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons["a"] == (
        "its channels enter 'inner' (Subclassed), which is not a supported layer"
    )
    assert reasons["inner/inside"] == reasons["a"]


def test_a_layer_that_cannot_be_made_again_is_refused():
    class Odd(layers.Layer):
        def __init__(self, function):
            super().__init__(name="odd")
            self.function = function

        def call(self, x):
            return self.function(x)

    inputs = keras.Input((4,))
    x = layers.Dense(8)(Odd(lambda x: x * 2)(inputs))
    with pytest.raises(ValueError, match=r"'odd' \(Odd\) cannot be made again.*get_config"):
        kd.shrink(keras.Model(inputs, layers.Dense(2)(x)), 0.5)


def test_what_is_frozen_inside_layers_stays_frozen():
    inputs = keras.Input((6, 8))
    x = layers.Dense(8, name="hidden")(inputs)
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.Dense(16, name="up")(attention(x, x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    attention.query_dense.trainable = False
    model.get_layer("up").bias.trainable = False
    small = kd.shrink(model, 0.5)
    assert small.get_layer("attention").query_dense.trainable is False
    assert small.get_layer("attention").key_dense.trainable is True
    assert small.get_layer("up").bias.trainable is False
    assert small.get_layer("up").kernel.trainable is True
