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
from keras_kd.models.graph import flat_layers
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


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(y_true - y_pred, -1)


class OwnMetric(keras.metrics.Mean):
    pass


class NotToBeWritten(keras.metrics.Mean):
    def get_config(self):
        raise KeyError("size")


def own_function(y_true, y_pred):
    return keras.ops.mean(y_true - y_pred, -1)


COMPILED = {
    "loss": {"loss": OwnLoss()},
    "metric": {"loss": "mse", "metrics": [OwnMetric()]},
    "metric that cannot be written": {"loss": "mse", "metrics": [NotToBeWritten()]},
    "function": {"loss": own_function, "weighted_metrics": [own_function]},
    # As in a notebook, where Python finds no source code.
    "lambda": {"loss": eval("lambda y_true, y_pred: y_pred")},
}


class OwnModel(keras.Model):
    """A class of its own with the graph that it is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = 0


def _ends(x):
    hidden = layers.Dense(6, name="hidden", activation="relu")(x)
    hidden = layers.BatchNormalization()(layers.Dense(4, name="next")(hidden))
    return layers.Dense(2, name="out")(hidden)


def _functional(**arguments):
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, _ends(inputs), **arguments)


def _sequential(inner=None):
    made = [inner] if inner else []
    made += [layers.Dense(6, name="hidden", activation="relu"), layers.Dense(4, name="next")]
    made += [layers.BatchNormalization(), layers.Dense(2, name="out")]
    return keras.Sequential([keras.Input((3,), name="x"), *made])


def _of_dictionary():
    inputs = {name: keras.Input((3,), name=name) for name in ("b", "a")}
    return keras.Model(inputs, {"y": _ends(layers.Subtract()([inputs["a"], inputs["b"]]))})


def _own_class():
    inputs = keras.Input((3,), name="x")
    return OwnModel(inputs, _ends(inputs))


def _around(inner, wrap=lambda layer: layer):
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, _ends(wrap(inner)(inputs)))


def _inner(**arguments):
    inputs = keras.Input((3,), name="inner_x")
    inner = keras.Model(inputs, layers.Dense(3)(inputs), name="inner")
    inner.compile("sgd", **arguments)
    return inner


def _twice(inner):
    inputs = keras.Input((3,), name="middle_x")
    return keras.Model(inputs, inner(inputs), name="middle")


MODELS = {
    "functional": lambda arguments: _functional(),
    "sequential": lambda arguments: _sequential(),
    "dictionary of inputs": lambda arguments: _of_dictionary(),
    "class of its own": lambda arguments: _own_class(),
    "nested": lambda arguments: _around(_inner(**arguments)),
    "nested twice": lambda arguments: _around(_twice(_inner(**arguments))),
    "in a sequential one": lambda arguments: _sequential(_inner(**arguments)),
}
ALL_WAYS = {**WAYS, "self teacher": lambda model: kd.SelfTeacher(model).teacher}


def _all_models(model):
    return [layer for layer in flat_layers(model) if isinstance(layer, keras.Model)]


@pytest.mark.filterwarnings("error:The object being serialized")
@pytest.mark.parametrize("way", ALL_WAYS)
@pytest.mark.parametrize(
    ("kind", "compiled"),
    [("functional", name) for name in COMPILED]
    + [(kind, "lambda") for kind in MODELS if kind != "functional"],
)
def test_a_copy_ignores_what_was_compiled(kind, compiled, way):
    keras.utils.set_random_seed(0)
    model = MODELS[kind](COMPILED[compiled])
    # Half of the channels count for nothing, which shrinking removes.
    for name, zeros in (("hidden", np.s_[:, 1::2]), ("next", np.s_[1::2])):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[zeros] = 0.0
        model.get_layer(name).set_weights([kernel, bias])
    model.compile("sgd", **COMPILED[compiled])
    whole = [inner.compiled for inner in _all_models(model)]
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    x = {"a": x, "b": x[::-1] ** 2} if kind == "dictionary of inputs" else x
    expected = keras.tree.flatten(model(x))[0]
    copied = ALL_WAYS[way](model)
    assert copied is not model and not any(inner.compiled for inner in _all_models(copied))
    assert [inner.compiled for inner in _all_models(model)] == whole and any(whole)
    (found,) = keras.tree.flatten(copied(x))
    np.testing.assert_allclose(found, expected, atol=0.05 if way == "bfloat16" else 1e-5)
    assert copied.name == model.name and np.ptp(np.asarray(expected)) > 0.1
    if way not in ("shrink", "fold", "bfloat16"):
        assert type(copied) is type(model)
    if kind == "dictionary of inputs":
        assert copied.input.keys() == model.input.keys() and copied.output.keys() == {"y"}


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("kind", MODELS)
def test_check_ignores_what_was_compiled(kind, compiled):
    model = MODELS[kind](COMPILED[compiled])
    model.compile("sgd", **COMPILED[compiled])
    found = kd.check(model, kd.Prune(0.5), exports=[], verbose=False)
    assert found.ok, [problem.message for problem in found.problems]


def test_a_model_that_cannot_be_copied_stays_compiled():
    model = keras.Sequential([keras.Input((3,)), NoConfig(), layers.Dense(2)])
    model.compile("sgd", OwnLoss())
    with pytest.raises(ValueError, match="cannot be copied"):
        copy_model(model)
    assert model.compiled


@pytest.mark.parametrize("saved", [False, True])
def test_a_frozen_weight_stays_frozen(saved, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.layers[0].kernel.trainable = False
    if saved:
        save_student(model, tmp_path / "model.keras")
    copied = load_student(tmp_path / "model.keras") if saved else copy_model(model)
    assert [weight.trainable for weight in copied.weights] == [False, True]


class Forgetful(layers.Layer):
    def __init__(self, scale=1.0, **arguments):
        super().__init__(**arguments)
        self.scale = scale

    def call(self, x):
        return x * self.scale

    def get_config(self):
        return super().get_config()


def test_a_copy_that_computes_something_else_is_refused():
    x = np.ones((2, 3), "float32")
    inputs = keras.Input((3,))
    drawn = layers.GaussianNoise(1.0)(inputs, training=True)  # another number in every call
    for outputs in (Forgetful()(layers.Dense(2)(inputs)), drawn):
        copy_model(keras.Model(inputs, outputs), x)
    with pytest.raises(ValueError, match="Forgetful"):
        copy_model(keras.Sequential([keras.Input((3,)), layers.Dense(2), Forgetful(2.0)]), x)


class Two(keras.Model):
    """Holds two models, and says nothing of what they share."""

    def __init__(self, one, two, **arguments):
        super().__init__(**arguments)
        self.one, self.two = one, two

    def call(self, x):
        return self.one(x) + self.two(x)

    def get_config(self):
        return {"one": self.one.get_config(), "two": self.two.get_config()}

    @classmethod
    def from_config(cls, config):
        return cls(*(keras.Sequential.from_config(part) for part in config.values()))


def test_a_copy_of_more_weights_says_so():
    shared = layers.Dense(3, name="shared")
    model = Two(*(keras.Sequential([keras.Input((3,)), shared]) for _ in range(2)))
    x = np.ones((2, 3), "float32")
    model(x)
    with pytest.raises(ValueError, match="2 weights more; a layer that two of its parts share"):
        copy_model(model, x)
