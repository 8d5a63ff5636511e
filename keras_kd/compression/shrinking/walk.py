"""Walking a model's graph to learn what its channels depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_kd.compression.shrinking.analysis import Analysis, Call, CallRecord
from keras_kd.compression.shrinking.attention_rules import ATTENTION_RULES
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.kernel_rules import KERNEL_RULES
from keras_kd.compression.shrinking.operation_rules import MERGING, UNARY
from keras_kd.compression.shrinking.rules import apply_rule
from keras_kd.models.graph import graph_of, is_graph, ordered_nodes
from keras_kd.models.keras_2_masks import plain_type

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
    operation, name = call.operation, plain_type(call.operation).__name__
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


def analyze(
    model: keras.Model,
    bypassed: Mapping[int, Any],
    spared: Callable[[str, Any], str | None],
    **options: Any,
) -> Analysis:
    """Walk the graph of a model, nested models opened.

    Args:
        model: A functional or sequential model.
        bypassed: By the `id` of a node that is to be dropped, the tensor that takes the place of
            its output.
        spared: Called with the path and the layer, returns why its channels must stay, or `None`.
        **options: What the rules may ask for: `layer_norm`, whether the channels that a
            LayerNormalization normalizes over may go.

    Returns:
        An `Analysis`.
    """
    analysis = Analysis(options)
    graph = graph_of(model)
    inputs: list[Axes] = [(None,) * len(tensor.shape) for tensor in graph.inputs]
    for axes in _walk(analysis, graph, inputs, "", bypassed, spared):
        for axis in axes:
            analysis.groups.keep(axis, "its channels are the model's output")
    return analysis


def _walk(
    analysis: Analysis,
    graph: Any,
    inputs: list[Axes],
    prefix: str,
    bypassed: Mapping[int, Any],
    spared: Callable[[str, Any], str | None],
) -> list[Axes]:
    values = {id(t): axes for t, axes in zip(graph.inputs, inputs, strict=True)}
    for node in needed_nodes(graph, bypassed):
        path = prefix + node.operation.name
        if id(node) in bypassed:
            values[id(node.outputs[0])] = values[id(bypassed[id(node)])]
            _same_zeros(analysis, [bypassed[id(node)]], node.outputs)
            continue
        given = [values[id(tensor)] for tensor in node.arguments.keras_tensors]
        given = _joined_with_other_calls(analysis, node.operation, path, given)
        if isinstance(node.operation, keras.Model) and is_graph(node.operation):
            nested = graph_of(node.operation)
            taken = given[: len(nested.inputs)]
            if len(taken) < len(nested.inputs):
                raise ValueError(
                    f"The nested model '{path}' is called without one of its optional inputs, "
                    "which Shrink does not follow. Call it with all of them."
                )
            for axes in given[len(taken) :]:
                Call(analysis, path, node, given).keep_all(axes, f"'{path}' takes them as a mask")
            for tensor, axes in zip(nested.inputs, taken, strict=True):
                analysis.inputs[id(tensor)] = axes
            _same_zeros(analysis, node.arguments.keras_tensors, nested.inputs)
            outputs = _walk(analysis, nested, taken, f"{path}/", bypassed, spared)
            _same_zeros(analysis, nested.outputs, node.outputs)
        else:
            outputs = _call(analysis, path, node, given, spared)
        values.update({id(t): axes for t, axes in zip(node.outputs, outputs, strict=True)})
    return [values[id(tensor)] for tensor in graph.outputs]


def _call(analysis: Analysis, path: str, node: Any, given: list[Axes], spared: Any) -> list[Axes]:
    call = Call(analysis, path, node, given)
    outputs: list[Axes] = apply_rule(call)
    zeros = holds_zeros(call, outputs)
    analysis.zeros.update({id(tensor): zeros for tensor in node.outputs})
    reason = spared(path, node.operation)
    if reason is not None:
        reason = reason.replace("it is", f"'{path}' is", 1)
        for key, channels in analysis.made.items():
            if key[0] == id(node.operation):
                call.keep(channels, reason)
    for axes in outputs:
        for axis in axes:
            call.limit(axis)
    analysis.calls.append(
        CallRecord(path, node, call.shapes, call.output_shapes, given, outputs, call.reason)
    )
    return outputs


def _same_zeros(analysis: Analysis, sources: Sequence[Any], targets: Sequence[Any]) -> None:
    zeros = [analysis.zeros.get(id(tensor), True) for tensor in sources]
    analysis.zeros.update({id(t): zero for t, zero in zip(targets, zeros, strict=False)})


def _joined_with_other_calls(
    analysis: Analysis, operation: Any, path: str, given: list[Axes]
) -> list[Axes]:
    before = analysis.called.get(id(operation))
    # A layer without weights or sizes of its own may treat tensors of several sizes.
    sized = bool(getattr(operation, "weights", ())) or id(operation) in analysis.configs
    sized = sized or isinstance(operation, keras.Model)
    if before is not None and sized and [len(a) for a in before] == [len(a) for a in given]:
        reason = f"'{path}' is called with several inputs, of which one keeps its size"
        given = [
            tuple(analysis.groups.join(a, b, reason) for a, b in zip(one, two, strict=True))
            for one, two in zip(before, given, strict=True)
        ]
    analysis.called[id(operation)] = given
    return given


def needed_nodes(graph: Any, bypassed: Mapping[int, Any]) -> list[Any]:
    """Return the calls that the outputs of a graph still depend on, in order."""
    nodes = ordered_nodes(graph)
    needed = {id(tensor) for tensor in graph.outputs}
    result = []
    for node in reversed(nodes):
        if not any(id(tensor) in needed for tensor in node.outputs):
            continue
        result.append(node)
        sources = [bypassed[id(node)]] if id(node) in bypassed else node.arguments.keras_tensors
        needed |= {id(tensor) for tensor in sources}
    return result[::-1]
