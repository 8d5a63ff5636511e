"""How channels pass through layers without kernels: shapes, pooling, merging, activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call, Size
from keras_kd.compression.shrinking.channel_groups import Axes, Axis, kept_axis
from keras_kd.compression.shrinking.elementwise import is_elementwise, merged, same
from keras_kd.compression.shrinking.kernel_rules import channel_axis, single
from keras_kd.compression.shrinking.reshaping import reshaped


def spatial(call: Call) -> list[Axes]:
    """Rule of what changes every channel of an image alone."""
    x = call.inputs[0]
    channels = channel_axis(call.operation, len(x))
    call.keep_all(x, f"{call.name} works along this axis", but=channels)
    return [tuple(axis if i == channels else None for i, axis in enumerate(x))]


def _steps(call: Call) -> list[Axes]:
    """Rule of what works along the second of three axes."""
    x = call.inputs[0]
    call.keep_all(x, f"{call.name} works along this axis", but=-1)
    return [(None, None, x[-1])]


def _global_pooling(call: Call) -> list[Axes]:
    x = call.inputs[0]
    channels = channel_axis(call.operation, len(x))
    call.keep_all(x, f"{call.name} takes them together", but=channels)
    if call.operation.keepdims:
        return [tuple(axis if i == channels else None for i, axis in enumerate(x))]
    return [(None, x[channels])]


def _dropout(call: Call) -> list[Axes] | str:
    shape, axes = getattr(call.operation, "noise_shape", None), call.inputs[0]
    if shape is not None:
        call.config(noise_shape=lambda size: resized(shape, axes, size))
    return same(call)


def _flatten(call: Call) -> list[Axes]:
    x, shape = call.inputs[0], call.shapes[0]
    if call.operation.data_format == "channels_first" and len(x) > 1:
        x, shape = (x[0], *x[2:], x[1]), (shape[0], *shape[2:], shape[1])
    if len(x) == 1:
        return [(x[0], None)]
    return [reshaped(call, x, shape, call.output_shapes[0])]


def _reshape(call: Call) -> list[Axes]:
    out = reshaped(call, call.inputs[0], call.shapes[0], call.output_shapes[0])
    target = call.operation.target_shape
    call.config(target_shape=lambda size: resized(target, out[1:], size))
    return [out]


def resized(shape: Sequence[int | None], axes: Axes, size: Size) -> list[int | None]:
    """Return a target shape with the number of channels that remain; -1 stays."""
    # A 1 of a Dropout's `noise_shape` stands for all channels.
    return [
        n if axis is None or n in (-1, 1, None) else size(axis)
        for n, axis in zip(shape, axes, strict=True)
    ]


def _permute(call: Call) -> list[Axes]:
    x = call.inputs[0]
    return [(x[0], *(x[i] for i in call.operation.dims))]


def _repeat_vector(call: Call) -> list[Axes]:
    return [(None, None, call.inputs[0][-1])]


def _softmax(call: Call) -> list[Axes]:
    axis = getattr(call.operation, "axis", -1)
    return normalized_over(call, [axis] if isinstance(axis, int) else list(axis))


def normalized_over(call: Call, over: Sequence[int]) -> list[Axes]:
    """Rule of what divides by a sum along some axes: their channels stay."""
    x = call.inputs[0]
    axes = [axis % len(x) for axis in over]
    for axis in axes:
        call.keep(x[axis], f"{call.name} divides by a sum over these channels")
    return [tuple(None if i in axes else axis for i, axis in enumerate(x))]


def _activation(call: Call) -> list[Axes] | str:
    activation = call.operation.activation
    if is_elementwise(activation):
        return same(call)
    if getattr(activation, "__name__", "") in ("softmax", "log_softmax", "sparsemax"):
        return normalized_over(call, [-1])
    return f"{call.name} has an activation that may mix its channels"


def _concatenate(call: Call) -> list[Axes]:
    return concatenated(call, call.operation.axis)


def concatenated(call: Call, position: int) -> list[Axes]:
    """Rule of concatenation along an axis."""
    rank = len(call.inputs[0])
    position %= rank
    out: list[Axis] = []
    for i in range(rank):
        axes = [x[i] for x in call.inputs]
        if i != position:
            axis = axes[0]
            for other in axes[1:]:
                axis = call.join(axis, other)
            out.append(axis)
        elif all(axis is None for axis in axes):
            out.append(None)
        elif any(axis is None and s[i] is None for axis, s in zip(axes, call.shapes, strict=True)):
            for axis in axes:
                call.keep(axis, f"{call.name} puts them beside an axis of unknown size")
            out.append(None)
        else:
            parts = [
                kept_axis(int(s[i] or 0)) if axis is None else axis
                for axis, s in zip(axes, call.shapes, strict=True)
            ]
            out.append(np.concatenate(parts))
    return [tuple(out)]


def _rescaling(call: Call) -> list[Axes] | str:
    if np.ndim(call.operation.scale) or np.ndim(call.operation.offset):
        return f"{call.name} holds one number for each of them"
    return same(call)


def _named(*names: str) -> list[Any]:
    """Layers that this version of Keras has."""
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


_SAME = _named(
    "ReLU", "LeakyReLU", "ELU", "Identity", "GaussianDropout",
    "GaussianNoise", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "ActivityRegularization",
)  # fmt: skip
_DROPOUT = _named("Dropout", "AlphaDropout")
_SPATIAL = _named(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D",
    "AveragePooling3D", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D",
    "AdaptiveMaxPooling3D", "UpSampling2D", "UpSampling3D", "ZeroPadding2D", "ZeroPadding3D",
    "Cropping2D", "Cropping3D", "Resizing", "CenterCrop",
)  # fmt: skip
_STEPS = _named("ZeroPadding1D", "Cropping1D", "UpSampling1D")
_GLOBAL = _named(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
)  # fmt: skip
_MERGING = _named("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")

SHAPE_RULES = {
    **dict.fromkeys(_SAME, single(same)),
    **dict.fromkeys(_DROPOUT, single(_dropout)),
    **dict.fromkeys(_SPATIAL, single(spatial)),
    **dict.fromkeys(_STEPS, single(_steps)),
    **dict.fromkeys(_GLOBAL, single(_global_pooling)),
    **dict.fromkeys(_MERGING, merged),
    layers.Activation: single(_activation),
    layers.Softmax: single(_softmax),
    layers.Rescaling: single(_rescaling),
    layers.Concatenate: _concatenate,
    layers.Flatten: single(_flatten),
    layers.Reshape: single(_reshape),
    layers.Permute: single(_permute),
    layers.RepeatVector: single(_repeat_vector),
}
