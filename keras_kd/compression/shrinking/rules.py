"""Choosing the rule by which the channels of a layer follow from those of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call, Size
from keras_kd.compression.shrinking.attention_rules import ATTENTION_RULES
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.elementwise import merged
from keras_kd.compression.shrinking.kernel_rules import KERNEL_RULES, single
from keras_kd.compression.shrinking.operation_rules import OPERATION_RULES
from keras_kd.compression.shrinking.shape_rules import SHAPE_RULES
from keras_kd.models.graph import CustomScaleLayer, LayerScale
from keras_kd.models.keras_2_masks import plain_type


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
        reason = f"{call.name} normalizes over several axes"
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
            call.keep(x[axis], f"{call.name} normalizes over several axes")
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


def _layer_scale(call: Call) -> list[Axes]:
    """Rule of ConvNeXt's scale of each channel."""
    x = call.inputs[0]
    channels = x[-1]
    call.weight(call.operation.gamma, channels)
    if channels is not None:
        call.config(projection_dim=lambda size: size(channels))
    return [x]


APPLICATION_RULES = {
    LayerScale: single(_layer_scale),
    # Inception-ResNet's sum of the input and a multiple of the residual.
    CustomScaleLayer: merged,
}


Rule = Callable[[Call], "list[Axes] | str"]

_LAYER_RULES: dict[type, Rule] = {
    **KERNEL_RULES,
    **NORMALIZATION_RULES,
    **ATTENTION_RULES,
    **SHAPE_RULES,
    **APPLICATION_RULES,
}


def rule_for(operation: Any) -> Rule | None:
    """Return the rule for a layer or an operation of `keras.ops`, or `None`.

    A subclass of a layer may do anything in its `call`: it has no rule.
    """
    if isinstance(operation, keras.layers.Layer):
        return _LAYER_RULES.get(plain_type(operation))
    if type(operation).__module__.startswith("keras.src.ops."):
        return OPERATION_RULES.get(type(operation).__name__)
    return None


def apply_rule(call: Call) -> list[Axes]:
    """Return the channels along each axis of each output of a call.

    What has no rule, or is used in a way that its rule does not cover, makes all channels that
    reach it stay.
    """
    rule = rule_for(call.operation)
    if rule is None:
        kind = "layer" if isinstance(call.operation, keras.layers.Layer) else "operation"
        if all(axis is None for axes in call.inputs for axis in axes):
            return call.fixed(f"{call.name} is not a supported {kind}")
        return call.fixed(f"its channels enter {call.name}, which is not a supported {kind}")
    outputs = rule(call)
    if isinstance(outputs, str):
        return call.fixed(outputs)
    weights = [id(weight) for weight in getattr(call.operation, "weights", [])]
    listed = [number for number in weights if number in call.analysis.weights]
    if len(listed) not in (0, len(weights)):
        # A quantized or adapted layer: what is not listed could depend on its channels too.
        reason = f"{call.name} holds weights whose use is not known"
        for number in listed:
            call.keep_all(call.analysis.weights[number].axes, reason)
        for axes in outputs:
            call.keep_all(axes, reason)
        return call.fixed(reason)
    return outputs
