import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_kd.models.calls import (
    changed_attribute,
    changed_calls,
    name_operations,
    operation_names,
    operations_of,
    trace_calls,
)
from keras_kd.models.graph import flat_layers


class Block(layers.Layer):
    """Its attribute is named as the layer in its list is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4)
        self.rest = [layers.Dense(4, name="inner"), layers.Dense(4, name="inner")]

    def call(self, x):
        for layer in (self.inner, *self.rest):
            x = layer(x)
        return x


def model():
    i = keras.Input((4,), name="image")
    shared = layers.Dense(4, activation="relu", name="shared")
    x = Block(name="block")(shared(shared(i)))
    return keras.Model(i, layers.Dense(2, name="logits")(x + 1.0))


def test_every_operation_has_a_path_of_its_own():
    paths = operations_of(model())
    assert [p for p in paths if p.startswith("block/")] == [
        "block/inner",
        "block/inner_2",
        "block/inner_3",
    ]
    assert {"shared", "block", "logits"} < set(paths)
    assert len({id(layer) for layer in paths.values()}) == len(paths)


def test_calls_are_changed_for_the_length_of_the_block_alone():
    network = model()
    x = np.ones((2, 4), "float32")
    before = network(x)

    def doubled(path, operation, call, args, kwargs):
        return 2.0 * call(*args, **kwargs)

    with changed_calls({"logits": network.get_layer("logits")}, doubled):
        np.testing.assert_allclose(network(x), 2.0 * before, rtol=1e-6)
    np.testing.assert_array_equal(network(x), before)
    assert not [layer.name for layer in flat_layers(network) if "call" in vars(layer)]


def test_attributes_come_back_after_an_error_and_in_any_depth():
    layer = layers.Dense(2, activation="relu")
    original = layer.activation
    try:
        with changed_attribute(layer, "activation", 1), changed_attribute(layer, "call", 2):
            with changed_attribute(layer, "activation", 3):
                assert (layer.activation, layer.call) == (3, 2)
            assert layer.activation == 1
            raise KeyError
    except KeyError:
        pass
    assert layer.activation is original and "call" not in vars(layer)


def test_a_trace_tells_the_calls_their_order_and_their_parents():
    trace = trace_calls(model(), tf.TensorSpec((None, 4)))
    shared = [call for call in trace.calls if call.path == "shared"]
    assert [call.index for call in shared] == [0, 1]
    inner = next(call for call in trace.calls if call.path == "block/inner")
    assert inner.parent.path == "block" and inner.parent.parent is None
    order = [call.path for call in trace.calls]
    assert order.index("block/inner_3") < order.index("block") < order.index("logits")


def test_a_copy_takes_the_names_of_its_original():
    original = model()
    original.get_layer("block").rest[0].name = "renamed"
    copied = keras.models.clone_model(original)
    copied(np.ones((1, 4), "float32"))
    assert operation_names(copied) != operation_names(original)
    name_operations(copied, ["too few"])
    assert copied.name != "too few"
    name_operations(copied, operation_names(original))
    assert operation_names(copied) == operation_names(original)
    assert "block/renamed" in operations_of(copied)
