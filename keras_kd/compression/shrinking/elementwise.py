"""Functions that treat every value alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.channel_groups import Axes, Axis

_ACTIVATIONS = frozenset(
    {
        "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu",
        "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu",
        "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid",
        "squareplus", "tanh", "tanh_shrink", "threshold",
    }
)  # fmt: skip


def is_elementwise(activation: Any) -> bool:
    """Whether an activation treats every value alone, as far as is known."""
    if activation is None:
        return True
    if isinstance(activation, keras.layers.Layer):
        return type(activation) in (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
    return (
        getattr(activation, "__module__", "").startswith("keras.src.activations")
        and getattr(activation, "__name__", "") in _ACTIVATIONS
    )


def after_activation(call: Call, axes: Axes) -> list[Axes]:
    """Return the output of a layer that ends in its `activation`."""
    activation = call.operation.activation
    if not is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        for axis in axes:
            call.keep(axis, f"the activation '{name}' of {call.name} may mix its channels")
    return [axes]


def same(call: Call) -> list[Axes] | str:
    """Rule of what treats every value alone."""
    if len(call.inputs) > 1:
        return f"{call.name} takes a second tensor"
    if call.output_shapes[0] != call.shapes[0]:
        return f"{call.name} changes the shape of its input"
    return [call.inputs[0]]


def merged(call: Call) -> list[Axes] | str:
    """Rule of what combines tensors value by value, with broadcasting."""
    arguments = keras.tree.flatten((call.node.arguments.args, call.node.arguments.kwargs))
    given = []
    for argument in arguments:
        if isinstance(argument, keras.KerasTensor):
            given.append((call.axes_of(argument), tuple(argument.shape)))
        elif hasattr(argument, "shape") or isinstance(argument, (int, float)):
            shape = tuple(np.shape(argument))
            given.append(((None,) * len(shape), shape))
    rank = len(call.output_shapes[0])
    return [tuple(merged_axis(call, given, i - rank) for i in range(rank))]


def merged_axis(call: Call, given: list[Any], position: int) -> Axis:
    """Return the common axis at a place, counted from the last, of tensors that are broadcast."""
    found = [(axes[position], shape[position]) for axes, shape in given if len(shape) >= -position]
    full = [axis for axis, size in found if size != 1]
    if not full:
        full, found = [axis for axis, _ in found], []
    for axis, size in found:
        if size == 1:
            call.keep(axis, f"it is spread over many channels in {call.name}")
    result = full[0]
    for axis in full[1:]:
        result = call.join(result, axis, f"it meets a tensor of fixed size in {call.name}")
    return result
