"""How channels pass through normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call, Size
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.kernel_rules import single


def _weights(call: Call, axis: Any, scale: Any = None) -> None:
    """All weights of shape `[channels]`; scalars have no channels."""
    for weight in call.operation.weights:
        if len(weight.shape) == 1:
            call.weight(weight, axis, scale=scale)
        elif len(weight.shape) == 0:
            call.weight(weight)


def _axes(layer: Any, rank: int) -> list[int]:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return [axis % rank for axis in axes]


def _batch_normalization(call: Call) -> list[Axes]:
    x = call.inputs[0]
    (axis,) = _axes(call.operation, len(x))
    call.keep_all(x, f"{call.name} takes its mean along this axis", but=axis)
    _weights(call, x[axis])
    return [x]


def _layer_normalization(call: Call) -> list[Axes]:
    x = call.inputs[0]
    axes = _axes(call.operation, len(x))
    if len(axes) == 1 and call.analysis.options.get("layer_norm"):
        _weights(call, x[axes[0]])
        return [x]
    reason = f"{call.name} takes its mean over these channels (see `layer_norm`)"
    if len(axes) > 1:
        reason = f"{call.name} normalises over several axes"
    for axis in axes:
        call.keep(x[axis], reason)
    return [tuple(None if i in axes else axis for i, axis in enumerate(x))]


def _group_normalization(call: Call) -> list[Axes]:
    layer, x = call.operation, call.inputs[0]
    (axis,) = _axes(layer, len(x))
    call.keep_all(x, f"{call.name} takes its mean along this axis", but=axis)
    channels = x[axis]
    if channels is not None:
        # Only a whole group can go without a change to the statistics of others.
        groups = len(channels) if layer.groups == -1 else layer.groups
        each = len(channels) // groups
        by_group = channels.reshape(groups, each)
        reason = f"a group of {call.name} holds channels that stay"
        for other in by_group.T[1:]:
            call.join(by_group[:, 0], other, reason)
        if layer.groups != -1:
            call.config(groups=lambda size: size(channels) // each)
    _weights(call, channels)
    return [x]


def _rms_normalization(call: Call) -> list[Axes]:
    layer, x = call.operation, call.inputs[0]
    axes = _axes(layer, len(x))
    if len(axes) > 1:
        for axis in axes:
            call.keep(x[axis], f"{call.name} normalises over several axes")
        return [tuple(None if i in axes else axis for i, axis in enumerate(x))]
    channels = x[axes[0]]
    if channels is None:
        _weights(call, None)
        return [x]
    call.summed((channels,), call.zeros[0], "takes the mean of their squares")
    # The mean of the squares is taken over fewer values; scale and epsilon make up for it.
    count = len(channels)

    def scale(size: Size) -> float:
        return float(np.sqrt(count / size(channels)))

    _weights(call, channels, scale)
    call.config(epsilon=lambda size: layer.epsilon * count / size(channels))
    return [x]


def _unit_normalization(call: Call) -> list[Axes]:
    x = call.inputs[0]
    over = tuple(x[axis] for axis in _axes(call.operation, len(x)))
    call.summed(over, call.zeros[0], "divides by the sum of their squares")
    return [x]


def _prelu(call: Call) -> list[Axes]:
    layer, x = call.operation, call.inputs[0]
    call.weight(
        layer.alpha,
        *(a if n != 1 else None for a, n in zip(x[1:], layer.alpha.shape, strict=True)),
    )
    return [x]


NORMALIZATION_RULES = {
    layers.BatchNormalization: single(_batch_normalization),
    layers.LayerNormalization: single(_layer_normalization),
    layers.GroupNormalization: single(_group_normalization),
    layers.RMSNormalization: single(_rms_normalization),
    layers.UnitNormalization: single(_unit_normalization),
    layers.PReLU: single(_prelu),
}
