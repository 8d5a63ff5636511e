"""A copy computes what the original computes, whatever its layers have learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.compression.compress import copy_model
from keras_kd.compression.factorizing.low_rank import plan_by_energy, ways_of
from keras_kd.compression.factorizing.split_layers import split_layers
from keras_kd.compression.running.student_files import load_student, save_student
from keras_kd.models.copying import copy_layer
from keras_kd.models.layer_choice import LayerChoice
from keras_kd.teachers import fold_batch_norms
from keras_kd.teachers.fastest_form import in_bfloat16


def _normalization():
    layer = layers.Normalization(name="adapted")
    layer.adapt(np.random.default_rng(0).normal(3, 2, (64, 7)).astype("float32"))
    return keras.Input((7,)), layer, np.stack([np.ones(7), np.arange(7.0)]).astype("float32")


def _text(**options):
    layer = layers.TextVectorization(20, name="adapted", **options)
    layer.adapt(["a b c", "d e f g", "a a"])
    return keras.Input((), dtype="string"), layer, tf.constant(["a b d", "e q q"])


def _strings():
    layer = layers.StringLookup(name="adapted", output_mode="multi_hot")
    layer.adapt(["a", "b", "c"])
    return keras.Input((2,), dtype="string"), layer, tf.constant([["a", "b"], ["c", "z"]])


def _integers():
    layer = layers.IntegerLookup(name="adapted", output_mode="multi_hot")
    layer.adapt(np.array([3, 5, 9]))
    return keras.Input((2,), dtype="int64"), layer, tf.constant([[3, 5], [9, 1]], "int64")


def _bins():
    layer = layers.Discretization(num_bins=4, output_mode="multi_hot", name="adapted")
    layer.adapt(np.arange(100.0))
    return keras.Input((2,)), layer, np.array([[3.0, 50.0], [9.0, 81.0]], "float32")


ADAPTED = {
    "Normalization": _normalization,
    "TextVectorization": lambda: _text(output_mode="multi_hot", pad_to_max_tokens=True),
    "tf_idf": lambda: _text(output_mode="tf_idf"),
    "StringLookup": _strings,
    "IntegerLookup": _integers,
    "Discretization": _bins,
}


def _factorized(model, name):
    ways, _ = ways_of(model, LayerChoice("LowRank", name))
    return split_layers(model, plan_by_energy(ways, 1.0, force=True))[0]


WAYS = {
    "compress": copy_model,
    "shrink": lambda model: kd.shrink(model, 0.5, layers="hidden"),
    "low rank": lambda model: _factorized(model, "out"),
    "fold": fold_batch_norms,
    "bfloat16": in_bfloat16,
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ADAPTED)
def test_what_adapt_has_found_is_copied(name, way, nested):
    keras.utils.set_random_seed(0)
    inputs, adapted, x = ADAPTED[name]()
    features = keras.Model(inputs, adapted(inputs))(inputs) if nested else adapted(inputs)
    dense = layers.Dense(6, name="hidden", activation="relu")
    hidden = layers.BatchNormalization()(layers.Dense(4)(dense(features)))
    model = keras.Model(inputs, layers.Dense(2, name="out")(hidden))
    # Half of them without weights, which shrinking removes.
    dense.kernel.assign(np.where(np.arange(6) % 2, 0.0, np.asarray(dense.kernel)))
    expected = np.asarray(model(x))
    copied = WAYS[way](model)
    assert copied is not model
    tolerance = 0.05 if way == "bfloat16" else 1e-5
    np.testing.assert_allclose(np.asarray(copied(x)), expected, atol=tolerance)
    assert np.ptp(expected) > 0.1


class NoConfig(layers.Layer):
    def get_config(self):
        return {"size": self.size_that_nobody_set}


class Odd(layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)

    def get_config(self):
        return {"name": self.name}


class Indexing(layers.Layer):
    def get_config(self):
        return {**super().get_config(), "first": [][0]}


@pytest.mark.parametrize(
    "layer", [NoConfig(name="mine"), Odd(2, name="mine"), Indexing(name="mine")]
)
def test_whatever_a_layer_raises_names_it(layer):
    with pytest.raises(ValueError, match="'mine'"):
        copy_layer(layer)


@keras.saving.register_keras_serializable("test_copying")
class Nested(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.back = keras.Sequential([layers.Dense(4, name="inner")], name="back")
        self.head = layers.Dense(1, name="head")

    def call(self, x):
        return self.head(self.back(x))


@pytest.mark.parametrize("kind", ["copy", "file"])
def test_frozen_layers_inside_of_others_stay_frozen(kind, tmp_path):
    x = np.ones((2, 3), "float32")
    model = Nested()
    model(x)
    model.back.layers[0].trainable = False
    if kind == "copy":
        copied = copy_model(model, x)
    else:
        save_student(model, tmp_path / "student.keras")
        copied = load_student(tmp_path / "student.keras")
    assert copied.back.trainable and copied.head.trainable
    assert not copied.back.layers[0].trainable
    assert len(copied.trainable_variables) == len(model.trainable_variables) == 2


def test_a_model_compiled_with_a_plain_function_is_copied():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", lambda y, y_pred: keras.ops.mean(y - y_pred))
    copied = copy_model(model)
    assert not copied.compiled and copied.input_shape == model.input_shape
    np.testing.assert_array_equal(copied.get_weights()[0], model.get_weights()[0])
