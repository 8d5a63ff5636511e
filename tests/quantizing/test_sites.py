import keras
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.models.calls import trace_calls
from keras_kd.models.graph import input_tensors
from keras_kd.quantizing.sites import FIXED_RANGES, activation_name, find_sites


def sites_of(make, shape=(8, 8, 3), spared=()):
    i = keras.Input(shape, name="image")
    model = keras.Model(i, make(i))
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), input_tensors(model)
    )
    return find_sites(trace_calls(model, specs), spared)


def names(sites):
    return [f"{site.path}:{site.kind}" for site in sites.sites]


def conv(i, **arguments):
    return layers.Conv2D(4, 3, name="conv", **arguments)(i)


def norm(x):
    return layers.BatchNormalization(name="norm")(x)


def relu(x):
    return layers.ReLU(name="relu")(x)


@pytest.mark.parametrize(
    ("make", "expected", "folded", "scaled"),
    [
        (conv, ["conv:output"], [], []),
        (lambda i: relu(conv(i)), ["relu:output"], [], []),
        (lambda i: relu(norm(conv(i))), ["relu:output"], ["norm"], []),
        (lambda i: norm(relu(conv(i))), ["relu:output", "norm:output"], [], ["norm"]),
        (
            lambda i: norm(conv(i, activation="relu")),
            ["conv:output", "norm:output"],
            [],
            ["norm"],
        ),
        (
            lambda i: relu(layers.Dense(3, name="dense")(layers.Flatten(name="flat")(i))),
            ["relu:output"],
            [],
            [],
        ),
        (lambda i: conv(i, activation="swish"), ["conv:activation", "conv:output"], [], []),
        (
            lambda i: layers.SeparableConv2D(4, 3, name="conv")(i),
            ["conv:between", "conv:output"],
            [],
            [],
        ),
        # A transposed convolution cannot apply a rectifier itself.
        (
            lambda i: layers.Conv2DTranspose(4, 3, activation="relu", name="conv")(i),
            ["conv:activation", "conv:output"],
            [],
            [],
        ),
        (
            lambda i: relu(norm(layers.Conv2DTranspose(4, 3, name="conv")(i))),
            ["norm:output", "relu:output"],
            ["norm"],
            [],
        ),
        # The sum of a residual joins with the activation; pooling keeps the range.
        (
            lambda i: layers.MaxPooling2D(name="pool")(
                relu(layers.Add(name="add")([i, layers.Conv2D(3, 1, name="conv")(i)]))
            ),
            ["conv:output", "relu:output"],
            [],
            [],
        ),
    ],
)
def test_where_quantizers_stand(make, expected, folded, scaled):
    sites = sites_of(make)
    assert names(sites) == [":input", *expected]
    assert (sorted(sites.folded), sorted(sites.scaled)) == (folded, scaled)


def test_a_normalization_that_two_read_is_not_joined():
    def make(i):
        x = conv(i)
        return layers.Add(name="add")([relu(norm(x)), x])

    sites = sites_of(make)
    assert not sites.folded and "conv:output" in names(sites)


@pytest.mark.parametrize("name", FIXED_RANGES)
def test_activations_with_a_scale_of_the_format(name):
    sites = sites_of(lambda i: layers.Activation(name, name="last")(conv(i)))
    assert [site.fixed for site in sites.sites if site.path == "last"] == [FIXED_RANGES[name]]


def test_spared_layers_have_no_quantizer_and_what_follows_is_given_one():
    def make(i):
        x = layers.Dense(4, name="first")(layers.Flatten(name="flat")(i))
        return layers.Dense(3, name="last")(layers.Dense(4, name="middle")(x))

    found = names(sites_of(make, spared=("middle",)))
    assert found == [":input", "first:output", "last:output"]


def test_each_call_of_a_shared_layer_has_its_own():
    shared = layers.Dense(8, name="shared")
    sites = sites_of(lambda i: shared(shared(i)), (8,))
    assert [(site.path, site.call) for site in sites.sites[1:]] == [("shared", 0), ("shared", 1)]


def test_what_a_cell_multiplies_is_rounded_and_what_the_converter_rounds_beside_it():
    found = sites_of(lambda i: layers.LSTM(3, name="lstm")(i), (8, 4))
    # The state, both products, and the factors of the new state, which the file rounds.
    assert [(s.kind, s.output) for s in found.sites if s.path == "lstm/cell"] == [
        ("given", 1), ("MatMul", 0), ("MatMul", 1), ("Sigmoid", 2), ("Tanh", 1),
    ]  # fmt: skip
    assert {site.call for site in found.sites} == {0}


def test_cells_of_an_unknown_number_of_steps_stay_float():
    found = names(sites_of(lambda i: layers.LSTM(3, name="lstm")(i), (None, 4)))
    assert "lstm/cell:MatMul" not in found


def test_a_softmax_in_front_of_a_rounded_product_is_rounded():
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    found = names(sites_of(lambda i: attention(i, i), (8, 8)))
    assert "attention:Softmax" in found
    spared = names(sites_of(lambda i: attention(i, i), (8, 8), spared=("attention",)))
    assert "attention:Softmax" not in spared


def tanh(x):
    """Not Keras's."""
    return 1.7159 * keras.ops.tanh(2.0 * x / 3.0)


class Bounded(layers.Dense):
    """The output of an actor."""

    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs)


def relu4(x):
    return keras.ops.minimum(keras.ops.relu(x), 4.0)


relu4.__name__ = "relu"


@pytest.mark.parametrize(
    ("make", "fixed"),
    [
        (lambda i: layers.Dense(1, activation="tanh", name="d")(i), True),
        (lambda i: layers.Dense(1, activation=tanh, name="d")(i), False),
        (lambda i: layers.Activation("tanh", name="d")(i), True),
        (lambda i: layers.Activation(tanh, name="d")(i), False),
        (lambda i: Bounded(1, activation="tanh", name="d")(i), False),
    ],
)
def test_only_functions_of_keras_have_a_fixed_range(make, fixed):
    sites = [site for site in sites_of(make, (4,)).sites if site.kind == "output"]
    assert (sites[-1].fixed is not None) == fixed


def test_a_function_that_is_called_relu_need_not_be_one():
    found = names(sites_of(lambda i: layers.Dense(1, activation=relu4, name="d")(i), (4,)))
    assert "d:activation" in found
    assert activation_name(layers.Activation(relu4)) is None


def test_a_shared_convolution_in_front_of_several_normalizations_is_rounded():
    """It takes none of them in: each is a layer of its own, which needs a rounded input."""
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    shared = layers.Conv2D(4, 3, name="conv")
    outputs = [
        layers.ReLU()(layers.BatchNormalization(name=f"bn_{name}")(shared(x)))
        for name, x in (("a", a), ("b", b))
    ]
    model = keras.Model([a, b], layers.Concatenate()(outputs))
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    found = names(find_sites(trace_calls(model, specs)))
    assert found.count("conv:output") == 2
