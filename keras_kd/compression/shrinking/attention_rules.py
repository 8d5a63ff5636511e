"""How channels and heads pass through attention."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.channel_groups import Axes, Axis
from keras_kd.models.graph import attention_projections, kernel_of


def _inputs(call: Call) -> dict[str, Any] | str:
    """The tensors by their names in the signature of `call`."""
    arguments = call.arguments
    names = ("query", "value", "key")
    tensors = {n: arguments.get(n, arguments.get(i)) for i, n in enumerate(names)}
    if tensors["key"] is None:
        tensors["key"] = tensors["value"]
    if any(not isinstance(tensor, keras.KerasTensor) for tensor in tensors.values()):
        return f"{call.name} is given a constant"
    known = {id(tensor) for tensor in tensors.values()}
    for tensor, axes in zip(call.tensors, call.inputs, strict=True):
        if id(tensor) not in known:
            call.keep_all(axes, f"{call.name} takes them as a mask")
        else:
            call.keep_all(axes, f"{call.name} attends along this axis", but=-1)
    return tensors


def _heads_are_seen(call: Call) -> str | None:
    """Why the heads of a layer must stay, or `None`."""
    if len(call.output_shapes) > 1:
        return f"{call.name} returns a score for each of its heads"
    query_rank = len(call.shapes[0])
    masks = [shape for shape in call.shapes if len(shape) > query_rank]
    if any(shape[1] != 1 for shape in masks):
        return f"{call.name} is given a mask for each of its heads"
    return None


def _projections(
    call: Call, tensors: dict[str, Any], queries: np.ndarray, values: np.ndarray, out: Axis
) -> None:
    layer = call.operation
    projections = attention_projections(layer)
    sources = {"query": queries, "key": values, "value": values, "gate": queries}
    for name, heads in sources.items():
        if name not in projections:
            continue
        projection = projections[name]
        taken = call.axes_of(tensors["query" if name == "gate" else name])[-1]
        call.weight(kernel_of(projection), taken, heads, None)
        call.weight(projection.bias, heads, None)
    call.weight(kernel_of(attention_projections(layer)["output"]), queries, None, out)
    call.weight(projections["output"].bias, out)
    reason = _heads_are_seen(call)
    if reason is not None:
        call.keep(queries, reason)


def _multi_head(call: Call) -> list[Axes] | str:
    layer = call.operation
    tensors = _inputs(call)
    if isinstance(tensors, str):
        return tensors
    if len(kernel_of(attention_projections(layer)["output"]).shape) != 3:
        return f"{call.name} returns several axes of features"
    heads = call.new(layer.num_heads, "heads")
    out = call.new(int(kernel_of(attention_projections(layer)["output"]).shape[-1]))
    _projections(call, tensors, heads, heads, out)
    call.config(num_heads=lambda size: size(heads), output_shape=lambda size: [size(out)])
    first = (*(None,) * (len(call.output_shapes[0]) - 1), out)
    return [first, *((None,) * len(shape) for shape in call.output_shapes[1:])]


def _grouped_query(call: Call) -> list[Axes] | str:
    layer = call.operation
    tensors = _inputs(call)
    if isinstance(tensors, str):
        return tensors
    # A head of keys and values goes with the heads of queries that look at it.
    heads = call.new(layer.num_key_value_heads, "heads")
    queries = np.repeat(heads, layer.num_repeats)
    # The layer gives as many features as its query has.
    out = call.axes_of(tensors["query"])[-1]
    _projections(call, tensors, queries, heads, out)
    call.config(
        num_key_value_heads=lambda size: size(heads),
        num_query_heads=lambda size: size(queries),
    )
    first = (*(None,) * (len(call.output_shapes[0]) - 1), out)
    return [first, *((None,) * len(shape) for shape in call.output_shapes[1:])]


ATTENTION_RULES = {
    layers.MultiHeadAttention: _multi_head,
    layers.GroupQueryAttention: _grouped_query,
}
