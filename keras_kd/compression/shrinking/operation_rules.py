"""How channels pass through the operations of `keras.ops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_kd.compression.shrinking.analysis import Call, Size
from keras_kd.compression.shrinking.channel_groups import Axes, Axis
from keras_kd.compression.shrinking.elementwise import merged, merged_axis, same
from keras_kd.compression.shrinking.reshaping import reshaped
from keras_kd.compression.shrinking.shape_rules import (
    concatenated,
    normalized_over,
    resized,
    spatial,
)
from keras_kd.models.graph import calls_of, origin_of


def _reshape(call: Call) -> list[Axes]:
    out = reshaped(call, call.inputs[0], call.shapes[0], call.output_shapes[0])
    shape = call.operation.newshape
    call.config(newshape=lambda size: resized(shape, out, size))
    return [out]


def _transpose(call: Call) -> list[Axes]:
    x = call.inputs[0]
    axes = call.operation.axes
    order = range(len(x))[::-1] if axes is None else axes
    return [tuple(x[i] for i in order)]


def _swapaxes(call: Call) -> list[Axes]:
    out = list(call.inputs[0])
    i, j = call.operation.axis1, call.operation.axis2
    out[i], out[j] = out[j], out[i]
    return [tuple(out)]


def _moveaxis(call: Call) -> list[Axes]:
    x = call.inputs[0]
    places = np.moveaxis(
        np.empty(range(len(x))), call.operation.source, call.operation.destination
    ).shape
    return [tuple(x[i] for i in places)]


def _concatenate(call: Call) -> list[Axes] | str:
    tensors = keras.tree.flatten(call.node.arguments.args)
    if len(tensors) != len(call.tensors):
        return f"{call.name} is given a constant"
    return concatenated(call, call.operation.axis)


def _reduction(linear: bool) -> Callable[[Call], list[Axes]]:
    def rule(call: Call) -> list[Axes]:
        x = call.inputs[0]
        given = call.operation.axis
        axes = range(len(x)) if given is None else np.atleast_1d(given)
        gone = {int(axis) % len(x) for axis in axes}
        over = tuple(x[axis] for axis in gone)
        if linear:
            call.summed(over, call.zeros[0], "sums over them")
        else:
            call.keep_all(over, f"{call.name} takes them together")
        if call.operation.keepdims:
            return [tuple(None if i in gone else axis for i, axis in enumerate(x))]
        return [tuple(axis for i, axis in enumerate(x) if i not in gone)]

    return rule


def _is_true_of_some_or_all(call: Call) -> list[Axes]:
    """Rule of `any` and `all`: what the masks of Keras's `Concatenate` end in."""
    x, given = call.inputs[0], call.operation.axis
    axes = range(len(x)) if given is None else np.atleast_1d(given)
    # All channels of one part say the same, and of every part some remain.
    if all(_is_the_same_along(call.tensors[0], int(axis) % len(x)) for axis in axes):
        gone = {int(axis) % len(x) for axis in axes}
        if call.operation.keepdims:
            return [tuple(None if i in gone else axis for i, axis in enumerate(x))]
        return [tuple(axis for i, axis in enumerate(x) if i not in gone)]
    return _reduction(linear=type(call.operation).__name__ == "Any")(call)


def _is_the_same_along(tensor: Any, axis: int) -> bool:
    """Whether a tensor, or each of the parts it is concatenated of, is constant along an axis."""
    origin = origin_of(tensor)
    if tensor.shape[axis] == 1 or origin is None:
        return bool(tensor.shape[axis] == 1)
    name = type(origin.operation).__name__
    if name in ("LogicalAnd", "LogicalOr", "Concatenate"):
        node = calls_of(origin.operation)[origin.node_index]
        ranks = {len(part.shape) for part in node.arguments.keras_tensors}
        return ranks == {len(tensor.shape)} and all(
            _is_the_same_along(part, axis) for part in node.arguments.keras_tensors
        )
    return name in ("OnesLike", "ZerosLike")


def _squeeze(call: Call) -> list[Axes]:
    x, shape, given = call.inputs[0], call.shapes[0], call.operation.axis
    axes = [i for i, n in enumerate(shape) if n == 1] if given is None else np.atleast_1d(given)
    gone = {int(axis) % len(x) for axis in axes}
    for axis in gone:
        call.keep(x[axis], f"{call.name} needs this axis to have one place")
    return [tuple(axis for i, axis in enumerate(x) if i not in gone)]


def _expand_dims(call: Call) -> list[Axes]:
    out: list[Axis] = list(call.inputs[0])
    rank = len(call.output_shapes[0])
    for axis in sorted(int(axis) % rank for axis in np.atleast_1d(call.operation.axis)):
        out.insert(axis, None)
    return [tuple(out)]


def _split(call: Call) -> list[Axes]:
    x, position = call.inputs[0], call.operation.axis
    position %= len(x)
    axis = x[position]
    if axis is None:
        return [x] * len(call.output_shapes)
    sizes = [int(shape[position] or 0) for shape in call.output_shapes]
    parts = np.split(axis, np.cumsum(sizes)[:-1])
    call.config(indices_or_sections=lambda size: np.cumsum([size(p) for p in parts])[:-1].tolist())
    return [tuple(p if i == position else a for i, a in enumerate(x)) for p in parts]


def _get_item(call: Call) -> list[Axes] | str:
    x, shape = call.inputs[0], call.shapes[0]
    key = call.arguments.get(1, call.arguments.get("key"))
    entries = list(key) if isinstance(key, tuple) else [key]
    if any(not (isinstance(k, (slice, int, type(None))) or k is Ellipsis) for k in entries):
        return f"{call.name} picks by an array"
    taken = sum(k is not None and k is not Ellipsis for k in entries)
    if not any(k is Ellipsis for k in entries):
        entries.append(Ellipsis)
    place = next(i for i, k in enumerate(entries) if k is Ellipsis)
    entries[place : place + 1] = [slice(None)] * (len(x) - taken)
    out: list[Axis] = []
    changed: dict[int, tuple[np.ndarray, int, int]] = {}
    axis = 0
    for i, entry in enumerate(entries):
        if entry is None:
            out.append(None)
            continue
        channels = x[axis]
        if channels is None or entry == slice(None):
            out += [] if isinstance(entry, int) else [channels]
        elif isinstance(entry, int) or entry.step not in (None, 1):
            call.keep(channels, f"{call.name} picks single ones of them")
            out += [] if isinstance(entry, int) else [None]
        else:
            start, stop, _ = entry.indices(int(shape[axis] or 0))
            changed[i] = (channels, start, stop)
            out.append(channels[start:stop])
        axis += 1
    if changed:
        call.analysis.arguments[id(call.node)] = _new_key(entries, changed)
    return [tuple(out)]


def _new_key(entries: list[Any], changed: dict[int, Any]) -> Callable[..., Any]:
    def rewrite(args: tuple[Any, ...], size: Size) -> tuple[Any, ...]:
        key = list(entries)
        for i, (channels, start, stop) in changed.items():
            key[i] = slice(size(channels[:start]), size(channels[:stop]))
        return (args[0], tuple(key))

    return rewrite


def _pad(call: Call) -> list[Axes] | str:
    x = call.inputs[0]
    width = np.broadcast_to(np.asarray(call.operation.pad_width), (len(x), 2))
    for axis, (before, after) in zip(x, width, strict=True):
        if before or after:
            call.keep(axis, f"{call.name} pads along this axis")
    return [tuple(None if pad.any() else axis for axis, pad in zip(x, width, strict=True))]


def _softmax(call: Call) -> list[Axes]:
    return normalized_over(call, np.atleast_1d(call.operation.axis).tolist())


def _matmul(call: Call) -> list[Axes] | str:
    if len(call.inputs) != 2 or min(len(x) for x in call.inputs) < 2:
        return f"{call.name} is given a constant or a vector"
    first, second = call.inputs
    # One factor of zero is enough.
    call.summed((first[-1], second[-2]), any(_labeled_zeros(call)), "sums over them")
    call.join(first[-1], second[-2], f"it meets an axis of fixed size in {call.name}")
    rank = len(call.output_shapes[0])
    given = list(zip(call.inputs, call.shapes, strict=True))
    batch = [merged_axis(call, given, i - rank) for i in range(rank - 2)]
    return [(*batch, first[-2], second[-1])]


def _labeled_zeros(call: Call) -> list[bool]:
    """Whether each input has channels that may go, and they hold zeros."""
    return [
        zero and any(axis is not None for axis in axes)
        for zero, axes in zip(call.zeros, call.inputs, strict=True)
    ]


def _einsum(call: Call) -> list[Axes] | str:
    terms, _, result = call.operation.subscripts.replace(" ", "").partition("->")
    letters = terms.split(",")
    if (
        "." in terms
        or not result
        or len(letters) != len(call.inputs)
        or any(len(set(term)) != len(term) for term in [*letters, result])
    ):
        return f"{call.name} has an equation that is not understood"
    axes: dict[str, Axis] = {}
    for term, x in zip(letters, call.inputs, strict=True):
        for letter, axis in zip(term, x, strict=True):
            axes[letter] = call.join(axes[letter], axis) if letter in axes else axis
    for letter, axis in axes.items():
        if letter not in result:
            pairs = zip(letters, _labeled_zeros(call), strict=True)
            zeros = any(zero for term, zero in pairs if letter in term)
            call.summed((axis,), zeros, "sums over them")
    return [tuple(axes[letter] for letter in result)]


UNARY = (
    "Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign", "SoftShrink",
    "SparsePlus", "Silu", "Squareplus", "LogSigmoid", "LeakyRelu", "HardSigmoid", "HardSilu",
    "Elu", "Selu", "Gelu", "Celu", "TanhShrink", "HardTanh", "HardShrink", "Threshold",
    "Absolute", "Negative", "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Rsqrt", "Square", "Tanh",
    "Sin", "Cos", "Erf", "Sign", "Round", "Floor", "Ceil", "Reciprocal", "Cast", "StopGradient",
    "Clip", "Copy", "OnesLike", "ZerosLike", "LogicalNot",
)  # fmt: skip
MERGING = (
    "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power",
    "DivideNoNan", "Mod", "FloorDivide", "Logaddexp", "LogicalAnd", "LogicalOr",
)  # fmt: skip

OPERATION_RULES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(UNARY, same),
    **dict.fromkeys(MERGING, merged),
    **dict.fromkeys(
        ("Mean", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std"), _reduction(linear=False)
    ),
    "Sum": _reduction(linear=True),
    **dict.fromkeys(("Any", "All"), _is_true_of_some_or_all),
    **dict.fromkeys(("MaxPool", "AveragePool"), spatial),
    "Resize": spatial,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Moveaxis": _moveaxis,
    "Concatenate": _concatenate,
    "Squeeze": _squeeze,
    "ExpandDims": _expand_dims,
    "Split": _split,
    "GetItem": _get_item,
    "Pad": _pad,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Matmul": _matmul,
    "Einsum": _einsum,
}
