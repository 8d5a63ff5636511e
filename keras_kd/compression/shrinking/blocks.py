"""Blocks that may be dropped: what comes out has the shape of what went in."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

import keras

from keras_kd.compression.shrinking.rules import rule_for
from keras_kd.models.graph import calls_of, graph_of, is_graph, ordered_nodes, origin_of, sublayers
from keras_kd.models.keras_2_masks import plain_type


@dataclasses.dataclass(frozen=True)
class Block:
    """A block that may be dropped.

    Attributes:
        name: The path of the layer that ends it: the addition of a residual block, or the layer
            itself.
        bypassed: By the `id` of the node whose output is replaced, the tensor that replaces it.
        layers: The layers inside it.
    """

    name: str
    bypassed: dict[int, Any]
    layers: tuple[Any, ...]

    @property
    def weights(self) -> list[Any]:
        """The weights that are trained inside it."""
        return [w for layer in self.layers for w in getattr(layer, "trainable_weights", [])]


def find_blocks(model: keras.Model, prefix: str = "") -> list[Block]:
    """Return the residual blocks of a model, and its layers that are blocks of layers.

    A residual block adds what its layers compute to what went into them. Where its sum enters a
    LayerNormalization and its input came out of one, as in transformers that normalize after the
    sum, this normalization is a part of it. A layer made of layers, such as a transformer layer of
    KerasHub, is a block if its one output has the shape of its one input.

    Args:
        model: A functional or sequential model; nested models are opened.
        prefix: What to put before names. Defaults to `""`.
    """
    graph = graph_of(model)
    nodes = ordered_nodes(graph)
    blocks = []
    for node in nodes:
        operation, path = node.operation, prefix + node.operation.name
        if len(calls_of(operation)) > 1 and sum(n.operation is operation for n in nodes) > 1:
            continue
        if isinstance(operation, keras.Model) and is_graph(operation):
            blocks += find_blocks(operation, f"{path}/")
        elif plain_type(operation).__name__ == "Add" and len(node.arguments.keras_tensors) == 2:
            block = _residual_block(graph, nodes, node, path)
            if block is not None:
                blocks.append(block)
        elif _is_layer_of_layers(operation) and _keeps_shape(node):
            blocks.append(_single(node, path))
    return blocks


def choose_blocks(model: keras.Model, names: Sequence[str]) -> list[Block]:
    """Return the blocks of these names.

    Args:
        model: The model.
        names: Names of blocks, with `*` for any characters; or of any layer or nested model whose
            output has the shape of its input.

    Raises:
        ValueError: If a name is of no such layer; the message lists those that may be dropped.
    """
    blocks = find_blocks(model)
    chosen: dict[str, Block] = {}
    for name in names:
        found = [block for block in blocks if fnmatch.fnmatchcase(block.name, name)]
        found = found or _layers_at(model, name)
        if not found:
            existing = ", ".join(f"'{block.name}'" for block in blocks) or "none"
            raise ValueError(
                f"`drop` names '{name}', which is neither a residual block of model "
                f"'{model.name}' nor a layer whose one output has the shape of its one input. "
                f"Its blocks are: {existing}."
            )
        chosen.update({block.name: block for block in found})
    return list(chosen.values())


def bypasses(blocks: Sequence[Block]) -> dict[int, Any]:
    """Return what replaces the output of every node that `blocks` drop."""
    return {number: tensor for block in blocks for number, tensor in block.bypassed.items()}


def _residual_block(graph: Any, nodes: list[Any], node: Any, path: str) -> Block | None:
    first, second = node.arguments.keras_tensors
    if first.shape != second.shape or first is second:
        return None
    for shortcut, branch in ((first, second), (second, first)):
        inside = _between(nodes, shortcut, branch)
        if inside is None or not _exclusive(graph, nodes, inside, node):
            continue
        layers = tuple({id(n.operation): n.operation for n in inside}.values())
        if not any(getattr(layer, "trainable_weights", None) for layer in layers):
            continue
        end = _normalization_after(graph, nodes, node, shortcut) or node
        if end is not node:
            layers = (*layers, end.operation)
        return Block(path, {id(end): shortcut}, layers)
    return None


def _between(nodes: list[Any], start: Any, end: Any) -> list[Any] | None:
    """The nodes that lead from one tensor to another, or `None` if the one does not."""
    reached = {id(start)}
    for node in nodes:
        if any(id(t) in reached for t in node.arguments.keras_tensors):
            reached |= {id(t) for t in node.outputs}
    if id(end) not in reached or end is start:
        return None
    needed = {id(end)}
    inside = []
    for node in reversed(nodes):
        outputs = {id(t) for t in node.outputs}
        if outputs & needed and outputs & reached and id(start) not in outputs:
            inside.append(node)
            needed |= {id(t) for t in node.arguments.keras_tensors}
    return inside


def _exclusive(graph: Any, nodes: list[Any], inside: list[Any], end: Any) -> bool:
    made = {id(t) for node in inside for t in node.outputs}
    own = {id(node) for node in inside} | {id(end)}
    if any(id(t) in made for t in graph.outputs):
        return False
    return not any(
        id(node) not in own and any(id(t) in made for t in node.arguments.keras_tensors)
        for node in nodes
    )


def _normalization_after(graph: Any, nodes: list[Any], node: Any, shortcut: Any) -> Any:
    made = node.outputs[0]
    users = [n for n in nodes if any(t is made for t in n.arguments.keras_tensors)]
    source = origin_of(shortcut)
    if (
        len(users) == 1
        and not any(t is made for t in graph.outputs)
        and isinstance(users[0].operation, keras.layers.LayerNormalization)
        and source is not None
        and isinstance(source.operation, keras.layers.LayerNormalization)
    ):
        return users[0]
    return None


def _is_layer_of_layers(operation: Any) -> bool:
    return (
        isinstance(operation, keras.layers.Layer)
        and rule_for(operation) is None
        and bool(sublayers(operation))
        and bool(operation.trainable_weights)
    )


def _keeps_shape(node: Any) -> bool:
    tensors = node.arguments.keras_tensors
    return (
        bool(tensors)
        and len(node.outputs) == 1
        and tuple(tensors[0].shape) == tuple(node.outputs[0].shape)
        and tensors[0].dtype == node.outputs[0].dtype
    )


def _single(node: Any, path: str) -> Block:
    return Block(path, {id(node): node.arguments.keras_tensors[0]}, (node.operation,))


def _layers_at(model: Any, name: str, prefix: str = "") -> list[Block]:
    found = []
    nodes = ordered_nodes(graph_of(model))
    for node in nodes:
        path = prefix + node.operation.name
        calls = [n for n in nodes if n.operation is node.operation]
        if path == name and all(
            _keeps_shape(n) and len(n.arguments.keras_tensors) == 1 for n in calls
        ):
            bypassed = {id(n): n.arguments.keras_tensors[0] for n in calls}
            return [Block(path, bypassed, (node.operation,))]
        if isinstance(node.operation, keras.Model) and is_graph(node.operation):
            found += _layers_at(node.operation, name, f"{path}/")
    return found
