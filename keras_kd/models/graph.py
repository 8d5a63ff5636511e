"""Keras models as graphs of layers: the one place for the private names of layers and tensors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf
from keras.src.applications.convnext import LayerScale as LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer

DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def is_graph(model: Any) -> bool:
    """Whether `model` is a functional or sequential model that runs as its graph says."""
    if isinstance(model, keras.Sequential):
        return True
    functional: Any = next((c for c in type(model).__mro__ if c.__name__ == "Functional"), None)
    return functional is not None and type(model).call is functional.call


def graph_of(model: Any) -> Any:
    """Return the functional model behind a sequential one; any other model as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def graph_layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer of every layer in the graph of a functional or sequential model.

    Nested models of these kinds are opened; a subclassed one counts as one layer.
    """
    found: list[tuple[str, Any]] = []
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model) and is_graph(layer):
            found += graph_layers(layer, f"{path}/")
        else:
            found.append((path, layer))
    return found


def check_graph(model: Any, task: str) -> None:
    """Refuse a model without a graph, or whose graph has no shapes yet.

    Args:
        model: A model.
        task: What is to be done with it, as in `f"{task} needs a functional model"`.

    Raises:
        TypeError: If it is not a Keras 3 model.
        ValueError: If it is neither functional nor sequential, or has no input shape.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"{task} takes a keras.Model. Received: {type(model).__name__}.")
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


def functions_of(kind: type[keras.layers.Layer]) -> list[Callable[..., Any]]:
    """Return the functions in which a class of layers computes: `call`, and that of a merge."""
    merge = getattr(kind, "_merge_function", None)
    return [kind.call] if merge is None else [kind.call, merge]


def standardized_inputs(model: Any, x: Any) -> Any:
    """Return a batch as a functional or sequential model reads it, in the structure of its inputs.

    Keras matches dictionaries by name, casts to the types of the inputs and adds or removes a last
    axis of 1.

    Args:
        model: The model.
        x: A batch in any structure that the model takes.
    """
    graph = graph_of(model)
    return keras.tree.pack_sequence_as(graph._inputs_struct, graph._standardize_inputs(x))


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


def input_tensors(model: keras.Model) -> Any:
    """Return symbolic tensors for the inputs of a model, in the structure in which it takes them.

    Raises:
        ValueError: If the model is not built, or they cannot be told from how it was built.
    """
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built: its input shape is not known. "
            "Call it on one batch, or give it a keras.Input, before the export."
        )
    struct: Any
    if isinstance(model, keras.Sequential) and model.inputs:
        struct = model.inputs[0]
    elif getattr(model, "inputs", None):
        struct = model.input
    else:
        struct = _struct_of_subclass(model)
    return struct


def _struct_of_subclass(model: keras.Model) -> Any:
    config = model.get_build_config() or {}
    shapes = config.get("input_shape")
    if shapes is None:
        raise ValueError(
            f"The inputs of '{model.name}' cannot be told from how it was built "
            f"({sorted(config)}). Wrap it in a functional model: "
            "keras.Model(inputs, model(inputs))."
        )

    def tensor(shape: Sequence[int | None], name: str) -> keras.KerasTensor:
        return keras.KerasTensor((None, *shape[1:]), dtype="float32", name=name)

    if isinstance(shapes, Mapping):
        return {key: tensor(shape, str(key)) for key, shape in shapes.items()}
    if shapes and isinstance(shapes[0], (tuple, list)):
        return [tensor(shape, f"input_{i}") for i, shape in enumerate(shapes)]
    return tensor(shapes, "input")


_NOT_IN_A_NAME, _NOT_FIRST = re.compile(r"[^A-Za-z0-9_.\\/>-]"), re.compile(r"^[^A-Za-z0-9.]+")


@contextlib.contextmanager
def named_for_files(model: keras.Model) -> Iterator[None]:
    """Let the variables of a model have names that TensorFlow can write while the block runs.

    They are named after their layers, which may begin with `_`, and a SavedModel's names may not.

    Args:
        model: A model.
    """
    changed = []
    try:
        for variable in model.variables:
            value = variable.value
            spread = isinstance(value, tf.distribute.DistributedValues)
            for part in value.values if spread else (value,):
                name = getattr(part, "_handle_name", None)
                if name is None:
                    continue
                stem, colon, number = name.rpartition(":")
                stem = _NOT_FIRST.sub("", _NOT_IN_A_NAME.sub("_", stem)) or "variable"
                if stem + colon + number != name:
                    changed.append((part, name))
                    part._handle_name = stem + colon + number
        yield
    finally:
        for part, name in changed:
            part._handle_name = name


def scope_for_files(model: keras.Model) -> AbstractContextManager[Any]:
    """Return a scope to trace a model in, where its layers may have names that begin with `_`.

    Args:
        model: A model.
    """
    names = [layer.name for layer in flat_layers(model)]
    needed = any(_NOT_FIRST.match(name) for name in names)
    return tf.name_scope("model") if needed else contextlib.nullcontext()


@contextlib.contextmanager
def changed_outputs(change: Callable[..., Any]) -> Iterator[None]:
    """Run `change(type, inputs, outputs, graph)` for every operation that a graph gets.

    Args:
        change: Returns what takes the place of the outputs, or `None` to leave them. What it adds
            to the graph itself is not given to it.
    """
    from tensorflow.python.framework import op_callbacks

    def callback(
        kind: str, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> Any:
        changed = None if graph is None else change(kind, inputs, outputs, graph)
        if changed is not None or outputs is None:
            return changed
        return list(outputs)  # which the next callback is given

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def kernel_axes(layer: Any, rank: int) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Return the axes of inputs and of outputs of a layer's kernel.

    The one place that says along which axis a product sums, which is the last axis of the kernel
    in an exported file.

    Args:
        layer: A layer of Keras, or one made from it, that holds a kernel.
        rank: The number of axes of the kernel.

    Returns:
        The axes of the inputs, `None` where rows are looked up, and the axes of the outputs.
    """
    if isinstance(layer, keras.layers.EinsumDense):
        operands, outputs = layer.equation.replace(" ", "").replace("...", "").split("->")
        letters = list(enumerate(operands.split(",")[1]))
        return (
            tuple(axis for axis, letter in letters if letter not in outputs),
            tuple(axis for axis, letter in letters if letter in outputs),
        )
    if isinstance(layer, keras.layers.Embedding):
        # Tied to the output of a language model it is the kernel of a product over its columns.
        return ((1,), (0,)) if getattr(layer, "tie_weights", False) else (None, (1,))
    if isinstance(layer, TRANSPOSED):
        return (rank - 1,), (rank - 2,)
    return (rank - 2,), (rank - 1,)
