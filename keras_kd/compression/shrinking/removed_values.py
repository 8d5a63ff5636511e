"""What removed channels hold, which a sum over channels would miss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.attention_rules import ATTENTION_RULES
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.kernel_rules import KERNEL_RULES
from keras_kd.compression.shrinking.operation_rules import MERGING, UNARY

_BY_VALUE = frozenset(
    {
        *UNARY, *MERGING, "ReLU", "LeakyReLU", "ELU", "Activation", "Rescaling", "Average",
        "CustomScaleLayer",
    }
)  # fmt: skip
_NEVER_ZERO = ("LayerNormalization", "Softmax", "LogSoftmax")
# What stands for values that are not known; of both signs, because of `maximum` and the like.
_UNKNOWN = (-1.37, 0.71)


def holds_zeros(call: Call, outputs: list[Axes]) -> bool:
    """Whether channels that may go hold zeros in the outputs of a call, their weights at zero.

    A unit whose weights are zero gives `f(0)` of its activation, which is 0.5 for a sigmoid: a
    later sum over the channels may only lose it if what reaches the sum is zero.

    Args:
        call: A call, its inputs described by `call.zeros`.
        outputs: The channels along the axes of its outputs.
    """
    operation, name = call.operation, type(call.operation).__name__
    if all(axis is None for axes in outputs for axis in axes):
        return True
    if isinstance(operation, tuple(ATTENTION_RULES)):
        return True
    if isinstance(operation, tuple(KERNEL_RULES)):
        return _kernel_gives_zeros(call, outputs[0])
    if isinstance(operation, (layers.BatchNormalization, layers.GroupNormalization)):
        return bool(operation.scale) or call.zeros[0]
    if name in _NEVER_ZERO:
        return False
    if name == "Pad" and call.arguments.get("constant_values", call.arguments.get(1)) is not None:
        return False
    # All that is left moves, picks, pools or sums values.
    return _zero_gives_zero(call) if name in _BY_VALUE else all(call.zeros)


def _kernel_gives_zeros(call: Call, axes: Axes) -> bool:
    layer = call.operation
    if isinstance(layer, layers.Embedding):
        return True
    own = [made for (number, _), made in call.analysis.made.items() if number == id(layer)]
    depthwise = isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    others = [a for a in axes if a is not None and not depthwise and all(a is not m for m in own)]
    if others and not (call.zeros[0] and getattr(layer, "bias", None) is None):
        return False
    return layer.activation is None or _is_zero(layer.activation, (0.0,))


def _zero_gives_zero(call: Call) -> bool:
    known = {
        id(tensor): zero and any(axis is not None for axis in axes)
        for tensor, zero, axes in zip(call.tensors, call.zeros, call.inputs, strict=True)
    }

    def run(unknown: float) -> Any:
        def value(leaf: Any) -> Any:
            if not np.ndim(leaf) and not isinstance(leaf, keras.KerasTensor):
                return leaf
            number = 0.0 if known.get(id(leaf)) else unknown
            return np.full((1,) * len(leaf.shape), number, keras.config.floatx())

        arguments = call.node.arguments
        args, kwargs = keras.tree.map_structure(value, (arguments.args, arguments.kwargs))
        return call.operation(*args, **kwargs)

    return _is_zero(run, _UNKNOWN)


def _is_zero(function: Any, values: tuple[float, ...]) -> bool:
    try:
        with np.errstate(all="ignore"):
            results = [keras.ops.convert_to_numpy(function(value)) for value in values]
    except Exception:  # a function of the user's may raise anything
        return False
    return all(not result.any() for result in results)
