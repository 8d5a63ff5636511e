"""The graph of layers of functional and sequential Keras 3 models."""

from __future__ import annotations

from typing import Any

import keras


def is_graph(model: Any) -> bool:
    """Whether `model` is a functional or sequential model that runs as its graph says."""
    if isinstance(model, keras.Sequential):
        return True
    functional: Any = next((c for c in type(model).__mro__ if c.__name__ == "Functional"), None)
    return functional is not None and type(model).call is functional.call


def graph_of(model: Any) -> Any:
    """Return the functional model behind a sequential one; any other model as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def check_graph(model: Any, task: str) -> None:
    """Refuse a model without a graph, or whose graph has no shapes yet.

    Args:
        model: A model.
        task: What is to be done with it, as in `f"{task} needs a functional model"`.

    Raises:
        TypeError: If it is no Keras 3 model.
        ValueError: If it is neither functional nor sequential, or has no input shape.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"{task} takes a keras.Model, but received {type(model).__name__}.")
    if not is_graph(model):
        raise ValueError(
            f"{task} needs the graph of layers of a functional or sequential model, but "
            f"'{model.name}' is a {type(model).__name__}, a subclassed model, whose layers meet "
            "in Python code only. Write it as keras.Model(inputs, outputs)."
        )
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Model '{model.name}' has no input shape yet. Begin it with keras.Input(shape), or "
            "call it on a batch first."
        )


def ordered_nodes(graph: Any) -> list[Any]:
    """Return the calls of a functional graph, inputs left out, each after those it depends on."""
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]


def call_arguments(node: Any) -> dict[int | str, Any]:
    """Return the arguments of a call by position and by name."""
    return {**dict(enumerate(node.arguments.args)), **node.arguments.kwargs}
