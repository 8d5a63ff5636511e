"""How channels pass through layers with kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.channel_groups import Axes, Axis
from keras_kd.compression.shrinking.elementwise import after_activation, is_elementwise
from keras_kd.models.graph import kernel_of


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis of the channels of an image layer."""
    data_format = layer.data_format or keras.config.image_data_format()
    return rank - 1 if data_format == "channels_last" else 1


def _dense(call: Call) -> list[Axes]:
    layer, (x,) = call.operation, call.inputs[:1]
    units = call.new(layer.units)
    call.weight(kernel_of(layer), x[-1], units)
    call.weight(layer.bias, units)
    call.config(units=lambda size: size(units))
    return after_activation(call, (*x[:-1], units))


def _einsum_dense(call: Call) -> list[Axes] | str:
    layer, x = call.operation, call.inputs[0]
    left, right = layer.equation.replace(" ", "").split("->")
    given, kernel = left.split(",")
    if any(len(set(term)) != len(term) for term in (given.replace(".", ""), kernel)):
        return f"{call.name} has an equation with a repeated letter"
    if "." in kernel:
        return f"{call.name} has an equation with an ellipsis in its kernel"
    axes: dict[str, Axis] = {}
    rest: Axes = ()
    before, _, after = given.partition("...")
    if "..." in given:
        rest = x[len(before) : len(x) - len(after)]
        x = (*x[: len(before)], *x[len(x) - len(after) :])
    axes.update(zip(before + after, x, strict=True))
    alone = tuple(axis for n, axis in axes.items() if n not in kernel and n not in right)
    call.summed(alone, call.zeros[0], "sums over them")
    sizes = dict(zip(kernel, kernel_of(layer).shape, strict=True))
    for letter in kernel:
        if letter not in axes:
            if letter not in right:
                return f"{call.name} has an equation that sums over its kernel alone"
            axes[letter] = call.new(int(sizes[letter]), f"channels {letter}")
    call.weight(kernel_of(layer), *(axes[letter] for letter in kernel))
    if layer.bias is not None:
        letters = right.replace("...", "")
        letters = letters[letters.index(layer.bias_axes[0]) :] if layer.bias_axes else ""
        by_letter = [axes[n] if n in layer.bias_axes else None for n in letters]
        call.weight(layer.bias, *by_letter[len(by_letter) - len(layer.bias.shape) :])
    before, _, after = right.partition("...")
    outputs = (*(axes[n] for n in before), *rest, *(axes[n] for n in after))
    shape = layer.partial_output_shape
    tail = outputs[len(outputs) - len(shape) :]
    call.config(
        output_shape=lambda size: [
            n if n is None or axis is None else size(axis)
            for n, axis in zip(shape, tail, strict=True)
        ]
    )
    return after_activation(call, outputs)


def _image(call: Call) -> tuple[Any, int, Axes]:
    """Return a layer that slides over an image, the axis of its channels, and its input."""
    layer, x = call.operation, call.inputs[0]
    channels = channel_axis(layer, len(x))
    call.keep_all(x, f"{call.name} slides along this axis", but=channels)
    return layer, channels, x


def _convolution(call: Call) -> list[Axes]:
    layer, channels, x = _image(call)
    out, taken = call.new(layer.filters), x[channels]
    kernel = taken if layer.groups == 1 else _grouped(call, taken, out)
    call.weight(kernel_of(layer), *(None,) * layer.rank, kernel, out)
    call.weight(layer.bias, out)
    call.config(filters=lambda size: size(out))
    return after_activation(call, _with(len(x), channels, out))


def _grouped(call: Call, taken: Axis, out: np.ndarray) -> Axis:
    """Couple the channels of a grouped convolution, and return those along its kernel."""
    layer = call.operation
    groups, each = layer.groups, int(kernel_of(layer).shape[-2])
    by_group = out.reshape(groups, -1)
    if taken is None or groups <= min(each, by_group.shape[1]):
        # The same places go in every group; the number of groups stays.
        for other in by_group[1:]:
            call.join(by_group[0], other)
        if taken is None:
            return None
        places = taken.reshape(groups, each)
        for other in places[1:]:
            call.join(places[0], other)
        return np.where((places == 0).any(axis=0), 0, places[0])
    # Whole groups go.
    reason = f"a group of {call.name} holds channels that stay"
    for ins, outs in zip(taken.reshape(groups, each), by_group, strict=True):
        first = np.full(len(ins) - 1 + len(outs), ins[0])
        call.join(first, np.concatenate([ins[1:], outs]), reason)
    call.config(groups=lambda size: size(taken) // each)
    return None


def _transposed_convolution(call: Call) -> list[Axes]:
    layer, channels, x = _image(call)
    out = call.new(layer.filters)
    call.weight(layer.kernel, *(None,) * layer.rank, out, x[channels])
    call.weight(layer.bias, out)
    call.config(filters=lambda size: size(out))
    return after_activation(call, _with(len(x), channels, out))


def _depthwise(call: Call) -> list[Axes]:
    layer, channels, x = _image(call)
    out = _repeated(x[channels], layer.depth_multiplier)
    call.weight(layer.kernel, *(None,) * layer.rank, x[channels], None)
    call.weight(layer.bias, out)
    return after_activation(call, _with(len(x), channels, out))


def _separable(call: Call) -> list[Axes]:
    layer, channels, x = _image(call)
    out = call.new(layer.filters)
    spatial = (None,) * layer.rank
    between = _repeated(x[channels], layer.depth_multiplier)
    call.weight(layer.depthwise_kernel, *spatial, x[channels], None)
    call.weight(layer.pointwise_kernel, *spatial, between, out)
    call.weight(layer.bias, out)
    call.config(filters=lambda size: size(out))
    return after_activation(call, _with(len(x), channels, out))


def _embedding(call: Call) -> list[Axes]:
    layer = call.operation
    out = call.new(layer.output_dim)
    call.keep_all(call.inputs[0], f"{call.name} looks these up")
    call.weight(kernel_of(layer), None, out)
    call.config(output_dim=lambda size: size(out))
    return [(*(None,) * len(call.shapes[0]), out)]


def _recurrent(call: Call) -> list[Axes] | str:
    layer, x = call.operation, call.inputs[0]
    mask = call.arguments.get("mask", call.arguments.get(2))
    given = [tensor for tensor in call.tensors[1:] if tensor is not mask]
    if given or layer.stateful:
        return f"{call.name} is given a state, or keeps one"
    for axes in call.inputs[1:]:
        call.keep_all(axes, f"{call.name} takes them as a mask")
    cell = layer.cell
    for activation in (layer.activation, getattr(layer, "recurrent_activation", None)):
        if not is_elementwise(activation):
            return f"{call.name} has an activation that may mix its channels"
    call.keep_all(x, f"{call.name} steps along this axis", but=-1)
    units = call.new(layer.units)
    gates = np.tile(units, int(cell.kernel.shape[1]) // layer.units)
    call.weight(cell.kernel, x[-1], gates)
    call.weight(cell.recurrent_kernel, units, gates)
    if cell.use_bias:
        bias = (gates,) if len(cell.bias.shape) == 1 else (None, gates)
        call.weight(cell.bias, *bias)
    call.config(units=lambda size: size(units))
    return [(*(None,) * (len(shape) - 1), units) for shape in call.output_shapes]


def _repeated(axis: Axis, times: int) -> Axis:
    return None if axis is None else np.repeat(axis, times)


def _with(rank: int, position: int, axis: Axis) -> Axes:
    return tuple(axis if i == position else None for i in range(rank))


def single(rule: Any) -> Any:
    """Return a rule for layers of one input; a second one, such as a mask, stays as it is."""

    def checked(call: Call) -> Any:
        for axes in call.inputs[1:]:
            call.keep_all(axes, f"{call.name} takes them as a second input")
        return rule(call)

    return checked


KERNEL_RULES = {
    layers.Dense: single(_dense),
    layers.EinsumDense: single(_einsum_dense),
    layers.Conv1D: single(_convolution),
    layers.Conv2D: single(_convolution),
    layers.Conv3D: single(_convolution),
    layers.Conv1DTranspose: single(_transposed_convolution),
    layers.Conv2DTranspose: single(_transposed_convolution),
    layers.Conv3DTranspose: single(_transposed_convolution),
    layers.DepthwiseConv1D: single(_depthwise),
    layers.DepthwiseConv2D: single(_depthwise),
    layers.SeparableConv1D: single(_separable),
    layers.SeparableConv2D: single(_separable),
    layers.Embedding: single(_embedding),
    layers.SimpleRNN: _recurrent,
    layers.GRU: _recurrent,
    layers.LSTM: _recurrent,
}
