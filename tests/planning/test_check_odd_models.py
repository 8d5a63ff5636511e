"""kd.check raises for no model, and what it says of a stage is what `compress` then does."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_kd as kd
from keras_kd.compression.stages.stage import Stage


@keras.saving.register_keras_serializable(package="test_odd")
class Spare(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.used, self.spare = layers.Dense(4), layers.Dense(4)

    def call(self, x):
        return self.used(x)


class NoConfig(layers.Layer):
    def get_config(self):
        return {"size": self.size_that_nobody_set}

    def call(self, x):
        return x * 2.0


@keras.saving.register_keras_serializable(package="test_odd")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.logits = layers.Dense(8), layers.Dense(2)

    def call(self, x):
        return self.logits(self.hidden(x))


def _around(*parts, shape=(6,), dtype="float32"):
    x = inputs = keras.Input(shape, dtype=dtype)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def _subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def _vectorized():
    layer = layers.TextVectorization(20, output_sequence_length=6, name="vectorize")
    layer.adapt(["a b c", "d e f g"])
    body = (layer, layers.Embedding(20, 8), layers.GlobalAveragePooling1D())
    return _around(*body, shape=(), dtype="string")


def _lookup():
    layer = layers.StringLookup(vocabulary=["a", "b"], name="words")
    return _around(layer, layers.Embedding(4, 8), shape=(), dtype="string")


def _normalized():
    layer = layers.Normalization(name="normalize")
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, 6)))
    return _around(layer, layers.Dense(8))


def _several_inputs_and_outputs():
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    x = layers.Dense(8, "relu", name="hidden")(ops.concatenate([first, second], -1))
    return keras.Model({"first": first, "second": second}, layers.Dense(2, name="logits")(x + 1.0))


def _shared():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    return keras.Model(inputs, layers.Dense(2)(shared(ops.tanh(shared(inputs)))))


def _nested():
    inner = _around(layers.Dense(8, "relu"))
    inner.name = "inner"
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


def _mixed():
    return _around(layers.Dense(8, "relu", dtype="mixed_bfloat16"), layers.Dense(4))


MODELS = {
    "text": _vectorized,
    "strings": _lookup,
    "adapted": _normalized,
    "sublayer never called": lambda: _around(Spare(name="spare")),
    "get_config fails": lambda: _around(NoConfig(name="bad")),
    "subclassed": _subclassed,
    "several inputs": _several_inputs_and_outputs,
    "shared": _shared,
    "nested": _nested,
    "mixed precision": _mixed,
    "recurrent": lambda: _around(layers.LSTM(8), shape=(3, 6)),
    "lambda": lambda: _around(layers.Lambda(lambda x: x * 2.0, name="twice"), layers.Dense(8)),
    "no weights": lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]),
    "attention": lambda: _around(
        layers.Dense(8), Attend(name="attend"), layers.GlobalMaxPooling1D(), shape=(3, 6)
    ),
}


@keras.saving.register_keras_serializable(package="test_odd")
class Attend(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


STAGES = {
    "shrink": lambda: kd.Shrink(0.5, epochs=0),
    "low_rank": lambda: kd.LowRank(ratio=0.9, epochs=0),
    "prune": lambda: kd.Prune(0.5, epochs=1),
    "cluster": lambda: kd.Cluster(4, epochs=0),
    "quantize_aware": lambda: kd.QuantizeAware(epochs=0),
}


def _data(model):
    inputs = getattr(model, "_inputs_struct", None)
    if inputs is None:
        inputs = (getattr(model, "inputs", None) or [keras.Input((6,))])[0]

    def values(tensor):
        if str(tensor.dtype) == "string":
            return np.array(["a b c", "d"] * 4)
        return np.ones((8, *tensor.shape[1:]), "float32")

    x = keras.tree.map_structure(values, inputs)
    return tf.data.Dataset.from_tensor_slices((x, np.arange(8) % 2)).batch(8)


def _message(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except ValueError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("name", MODELS)
def test_check_reports_on_every_model(name):
    found = kd.check(MODELS[name]())
    assert found.table() and str(found)
    assert found.to_dict()["ok"] == found.ok


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", MODELS)
def test_what_check_says_is_what_compress_does(name, stage):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    problems = kd.check(model, [STAGES[stage]()], exports=[]).problems
    data = _data(model)
    distiller = kd.Distiller(lambda x: tf.zeros((8, 2)), model, kd.losses.KLDivergence())
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    done = _message(lambda: kd.compress(distiller, data, stages=[STAGES[stage]()], verbose=0))
    assert [problem.message for problem in problems] == ([done] if done else [])


def test_a_layer_is_named_where_it_is_to_blame():
    for stage in (kd.QuantizeAware(), kd.Cluster(2)):
        (problem,) = kd.check(MODELS["get_config fails"](), stage, exports=[]).problems
        assert "'bad'" in problem.message
    (problem,) = kd.check(MODELS["get_config fails"](), kd.Prune(), exports=[]).problems
    assert "'bad'" in problem.message


def test_a_stage_or_function_of_the_user_that_fails_is_a_problem():
    class Failing(Stage):
        def make_plan(self, student, earlier):
            raise KeyError("mine")

    model = MODELS["shared"]()
    (problem,) = kd.check(model, Failing(1), exports=[]).problems
    assert "Failing" in problem.message and "KeyError" in problem.message
    stage = kd.Prune(layers=lambda layer: layer.filters > 3)
    (problem,) = kd.check(model, stage, exports=[]).problems
    assert "'shared'" in problem.message and "filters" in problem.message
