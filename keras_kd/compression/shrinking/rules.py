"""Choosing the rule by which the channels of a layer follow from those of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.application_rules import APPLICATION_RULES
from keras_kd.compression.shrinking.attention_rules import ATTENTION_RULES
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.kernel_rules import KERNEL_RULES
from keras_kd.compression.shrinking.normalization_rules import NORMALIZATION_RULES
from keras_kd.compression.shrinking.operation_rules import OPERATION_RULES
from keras_kd.compression.shrinking.shape_rules import SHAPE_RULES

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
        return _LAYER_RULES.get(type(operation))
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
            return call.fixed(f"{call.name} is no {kind} whose channels are understood")
        return call.fixed(f"its channels enter {call.name}, which is no {kind} that is understood")
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
