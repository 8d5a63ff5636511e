import keras
import pytest
from keras import layers

from keras_kd.models.graph import check_graph, graph_of, is_graph, ordered_nodes


class Own(keras.Model):
    """Functional in its graph, but not in what it does."""

    def call(self, x):
        return 2 * super().call(x)


class Bare(keras.Model):
    def call(self, x):
        return x


class Named(keras.Model):
    """Functional, as the models of KerasHub are."""


def test_what_has_a_graph():
    x = keras.Input((3,))
    y = layers.Dense(2)(x)
    assert is_graph(keras.Model(x, y))
    assert is_graph(Named(x, y))
    assert is_graph(keras.Sequential([x, layers.Dense(2)]))
    assert not is_graph(Own(x, y))
    assert not is_graph(Bare())
    assert not is_graph(layers.Dense(2))


def test_nodes_come_after_those_they_depend_on():
    x = keras.Input((3,))
    shared = layers.Dense(3, name="shared")
    y = layers.Add(name="add")([shared(shared(x)), x])
    nodes = ordered_nodes(graph_of(keras.Model(x, y)))
    assert [node.operation.name for node in nodes] == ["shared", "shared", "add"]
    sequential = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")])
    assert [node.operation.name for node in ordered_nodes(graph_of(sequential))] == ["d"]


def test_refusals_name_the_task():
    with pytest.raises(TypeError, match=r"Count takes a keras\.Model\. Received: Dense"):
        check_graph(layers.Dense(2), "Count")
    with pytest.raises(ValueError, match=r"Count needs the graph.*'own' is a Bare, a subclassed"):
        check_graph(Bare(name="own"), "Count")
    with pytest.raises(ValueError, match="no input shape yet"):
        check_graph(keras.Sequential([layers.Dense(2)]), "Count")
