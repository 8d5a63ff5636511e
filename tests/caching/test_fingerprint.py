import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.caching.fingerprint import (
    difference,
    fingerprint,
    teacher_fingerprint,
)


def network(activation="relu", units=4):
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.layers.Dense(units), keras.layers.Dropout(0.5)])
    x = keras.layers.Activation(activation)(inner(inputs))
    x = keras.layers.Softmax()(keras.layers.Dense(3, activation="softmax")(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x + 1.0))


def test_a_copy_is_the_same_teacher_whatever_its_layers_are_called():
    first, second = network(), network()
    assert first.layers[-1].name != second.layers[-1].name
    assert teacher_fingerprint(first)["config"] == teacher_fingerprint(second)["config"]
    assert teacher_fingerprint(first)["weights"] != teacher_fingerprint(second)["weights"]
    second.set_weights(first.get_weights())
    second.trainable = False
    second.compile("adam", "mse")
    assert teacher_fingerprint(first) == teacher_fingerprint(second)


def test_every_weight_and_every_layer_counts():
    model, other = network(), network("tanh")
    other.set_weights(model.get_weights())
    before = teacher_fingerprint(model)
    assert before["weights"] == teacher_fingerprint(other)["weights"]
    assert before["config"] != teacher_fingerprint(other)["config"]
    # The same layers in another order of the graph.
    a, b = keras.Input((3,)), keras.Input((3,))
    graphs = [keras.Model([a, b], keras.layers.Subtract()(pair)) for pair in ([a, b], [b, a])]
    first, second = map(teacher_fingerprint, graphs)
    assert first["config"] != second["config"]
    bias = model.layers[-1].bias
    bias.assign_add([0.0, 1e-7])
    assert before["weights"] != teacher_fingerprint(model)["weights"]


def test_other_kinds_of_teachers():
    class Subclassed(keras.Model):
        def __init__(self, scale):
            super().__init__()
            self.dense, self.scale = keras.layers.Dense(2), scale

        def call(self, x):
            return self.scale * self.dense(x)

    model = Subclassed(np.float32(2.0))
    model(tf.zeros((1, 3)))
    assert teacher_fingerprint(model)["weights"] is not None
    assert teacher_fingerprint(lambda x: x) == {"weights": None, "config": None}
    # A weight in bfloat16 has no buffer that NumPy could name.
    half = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    half.layers[0].kernel.assign(tf.ones((3, 2)))
    assert teacher_fingerprint(half)["weights"] is not None


def test_the_code_of_a_lambda_is_compared_by_what_it_does():
    models = []
    for function in (lambda x: 2 * x, lambda x: 3 * x):
        dense = keras.layers.Dense(2, kernel_initializer="ones")
        models.append(keras.Sequential([keras.Input((3,)), dense, keras.layers.Lambda(function)]))
    assert teacher_fingerprint(models[0]) == teacher_fingerprint(models[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": ["a"]}, "it holds layers=[], and layers=['a'] was asked for"),
        ({"dtype": "float16"}, "it holds dtype='float32', and dtype='float16' was asked for"),
        ({"top_k": 5}, "it holds top_k=None, and top_k=5"),
        ({"temperature": 2.0}, "it holds temperature=None, and temperature=2.0"),
        ({"views": 2}, "it holds views=None, and views=2"),
    ],
)
def test_arguments_count(change, reason):
    data = tf.data.Dataset.from_tensor_slices(np.zeros((6, 3), "float32"))
    same = {"layers": [], "dtype": "float32", "top_k": None, "temperature": None, "views": None}
    model = network()
    first = fingerprint(model, data.batch(2), **same)
    assert difference(first, fingerprint(model, data.batch(2), **same)) is None
    found = difference(first, fingerprint(model, data.batch(2), **{**same, **change}))
    assert found.startswith(reason)
    found = difference(first, fingerprint(model, data.batch(3), **same))
    assert found == "its data set had 3 batches, this one has 2"
    found = difference(first, fingerprint(model, data.batch(2, drop_remainder=True), **same))
    assert "elements of" in found
