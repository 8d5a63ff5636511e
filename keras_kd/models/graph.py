"""Keras models as graphs of layers: the one place for the private names of layers and tensors."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.applications.convnext import LayerScale as LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer


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


def flat_layers(layer: Any, include_self: bool = True, recursive: bool = True) -> list[Any]:
    """Return a layer and the layers inside it, also those inside of composite and custom layers.

    Args:
        layer: A model or a layer.
        include_self: Whether `layer` itself is the first. Defaults to `True`.
        recursive: Whether layers inside of layers are opened. Defaults to `True`.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def sublayers(layer: Any) -> list[Any]:
    """Return the layers that a layer tracks, an input layer included."""
    return list(getattr(layer, "_layers", ()))


def input_structure(model: Any) -> Any:
    """Return the symbolic inputs of a functional model, in its structure."""
    return graph_of(model)._inputs_struct


def output_structure(model: Any) -> Any:
    """Return the symbolic outputs of a functional or built sequential model, else `None`."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if model.built and model.inputs else None
    return getattr(model, "_outputs_struct", None)


def calls_of(operation: Any) -> list[Any]:
    """Return the nodes of the calls of a layer or operation."""
    return list(operation._inbound_nodes)


def calls_behind(operation: Any) -> list[Any]:
    """Return the nodes that take an output of a layer or operation."""
    return list(operation._outbound_nodes)


def origin_of(tensor: Any) -> Any:
    """Return what made a symbolic tensor (`operation`, `node_index`, `tensor_index`), or `None`."""
    return getattr(tensor, "_keras_history", None)


def kernel_of(layer: Any) -> Any:
    """Return the variable of a layer's kernel, without what LoRA adds to it."""
    for name in ("_kernel", "kernel", "_embeddings"):
        if getattr(layer, name, None) is not None:
            return getattr(layer, name)
    return None


def attention_projections(layer: Any) -> dict[str, Any]:
    """Return the projections of an attention layer that it has: query, key, value, gate, output."""
    names = ("query", "key", "value", "gate", "output")
    found = {name: getattr(layer, f"_{name}_dense", None) for name in names}
    return {name: projection for name, projection in found.items() if projection is not None}


def attention_axes(layer: Any) -> tuple[int, ...]:
    """Return the axes that an attention layer attends over, the batch counted."""
    return getattr(layer, "_attention_axes", None) or (1,)
