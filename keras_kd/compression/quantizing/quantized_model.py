"""Making a quantization-aware `tf_keras` model of a bridged student."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import unittest.mock
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.compression.quantizing.float_reason import FOLDED_INTO, float_reason
from keras_kd.compression.tf_keras_bridge.bridge import BridgedModel
from keras_kd.compression.tfmot import import_tf_keras, import_tfmot
from keras_kd.models.layer_plan import Reason
from keras_kd.system.quiet import capture_output

# What TF-MOT does not know, but whose kernel is trained for 8 bits all the same.
_KERNELS = {"Conv1D": "kernel", "Embedding": "embeddings"}
_SAME_RANGE = ("AveragePooling1D", "AveragePooling2D")


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A model that emulates 8 bits.

    Attributes:
        model: The `tf_keras` model.
        layer_names: From the path of each original layer to the present name of the layer with
            the same output.
        weight_layers: From the path to the present names of the layers that hold its weights.
        quantized: Paths of the layers whose weights have 8 bits.
        folded: Paths of the layers that the converter folds into the one before.
        float_layers: The class by path of the layers that stay float.
        reasons: Why they do, by path.
    """

    model: Any
    layer_names: Mapping[str, str]
    weight_layers: Mapping[str, tuple[str, ...]]
    quantized: tuple[str, ...]
    folded: tuple[str, ...]
    float_layers: Mapping[str, str]
    reasons: Mapping[str, Reason]


def quantize(bridged: BridgedModel, pruned: bool, clustered: Iterable[str] = ()) -> QuantizedModel:
    """Put TF-MOT's quantizers into a bridged model.

    Layers that TF-MOT does not know stay float, their output is quantized.

    Args:
        bridged: The model.
        pruned: Whether zeros among the weights must stay.
        clustered: Paths of the layers whose kernels were clustered as a whole. Defaults to none.

    Raises:
        ValueError: If no layer has weights that can be quantized.
    """
    tfmot, tf_keras = import_tfmot(), import_tf_keras()
    from keras_kd.compression.quantizing.quantize_config import (
        KernelQuantizeConfig,
        OutputQuantizeConfig,
        SameRangeQuantizeConfig,
    )
    from keras_kd.compression.quantizing.quantize_scheme import quantize_scheme

    quantization = tfmot.quantization.keras
    plan = {layer.name: _treatment(layer, bridged.model) for layer in bridged.model.layers}
    trained = ("quantize", "kernel")
    if not any(plan[layer.name] in trained and layer.weights for layer in bridged.model.layers):
        found = sorted({_class_name(layer) for layer in bridged.model.layers if layer.weights})
        raise ValueError(
            f"QuantizeAware finds no layer whose weights can have 8 bits in model "
            f"'{bridged.model.name}': its layers with weights are {', '.join(found) or 'none'}, "
            "and those that can be are Conv1D, Conv2D, DepthwiseConv2D, SeparableConv2D, "
            "Conv2DTranspose, Dense and Embedding. Leave this stage out and export with "
            'quantization="int8", which needs no training.'
        )

    def annotate(layer: Any) -> Any:
        treatment = plan[layer.name]
        if treatment == "float":
            return layer
        config = OutputQuantizeConfig() if treatment == "output" else None
        if treatment == "kernel":
            config = KernelQuantizeConfig(_KERNELS[type(layer).__name__])
        if type(layer).__name__ in _SAME_RANGE and _input_is_quantized(layer, bridged.model, plan):
            config = SameRangeQuantizeConfig()
        if pruned and treatment == "quantize" and type(layer).__name__ == "Conv2DTranspose":
            # The prune-preserving scheme does not know this layer; the zeros are kept anyway.
            config = _default_config(layer)
        return quantization.quantize_annotate_layer(layer, config)

    holders = {name for path in clustered for name in bridged.weight_layers.get(path, ())}
    scheme = quantize_scheme(bridged.model, pruned, holders)
    with capture_output(), quantization.quantize_scope(), _integer_inputs_left_alone():
        annotated = tf_keras.models.clone_model(bridged.model, clone_function=annotate)
        model = quantization.quantize_apply(annotated, scheme)

    present = {layer.name: layer for layer in model.layers}

    def renamed(name: str) -> str:
        return f"quant_{name}" if f"quant_{name}" in present else name

    by_weight_path = {
        path: tuple(plan[name] for name in names) for path, names in bridged.weight_layers.items()
    }
    layers = {layer.name: layer for layer in bridged.model.layers}
    classes = {name: _class_name(layer) for name, layer in layers.items()}
    float_layers = {
        path: classes[name]
        for path, name in bridged.layer_names.items()
        if plan[name] in ("output", "float") and classes[name] != "InputLayer"
    }
    return QuantizedModel(
        model,
        {path: renamed(name) for path, name in bridged.layer_names.items()},
        {path: tuple(map(renamed, names)) for path, names in bridged.weight_layers.items()},
        tuple(p for p, treatments in by_weight_path.items() if {*trained} & {*treatments}),
        tuple(p for p, treatments in by_weight_path.items() if treatments == ("fold",)),
        float_layers,
        {
            path: float_reason(
                layers[bridged.layer_names[path]],
                class_name,
                _consumers(layers[bridged.layer_names[path]], bridged.model),
            )
            for path, class_name in float_layers.items()
        },
    )


@contextlib.contextmanager
def _integer_inputs_left_alone() -> Iterator[None]:
    """Let TF-MOT put a quantizer behind inputs of floating-point numbers only.

    It puts one behind all, which fails for the tokens that an Embedding takes.
    """
    import_tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_transforms,
    )

    original = default_8bit_transforms.InputLayerQuantize.replacement

    def replacement(self: Any, match_layer: Any) -> Any:
        floating = tf.as_dtype(match_layer.layer["config"]["dtype"]).is_floating
        return original(self, match_layer) if floating else match_layer

    target = default_8bit_transforms.InputLayerQuantize
    with unittest.mock.patch.object(target, "replacement", replacement):
        yield


def _class_name(layer: Any) -> str:
    operation = getattr(layer, "operation", None)
    return type(layer if operation is None else operation).__name__


def _treatment(layer: Any, model: Any) -> str:
    """Return `"quantize"`, `"kernel"`, `"fold"`, `"output"` (float inside) or `"float"`."""
    class_name = type(layer).__name__
    if class_name == "InputLayer":
        return "float"
    nodes = [node for node in layer._inbound_nodes if node in _nodes(model)]
    shared = len(nodes) > 1
    if class_name == "BatchNormalization":
        if not shared and _folds(layer, model):
            return "fold"
        return "output" if not shared else "float"
    if _registry().supports(layer) and _accepts(layer):
        return "quantize"
    output = nodes[0].outputs
    single = not isinstance(output, (list, tuple, dict))
    if not single or shared or not output.dtype.is_floating:
        return "float"
    return "kernel" if class_name in _KERNELS else "output"


def _input_is_quantized(layer: Any, model: Any, plan: Mapping[str, str]) -> bool:
    nodes = [node for node in layer._inbound_nodes if node in _nodes(model)]
    before = [part for node in nodes for part in tf.nest.flatten(node.inbound_layers)]
    # TF-MOT quantizes the inputs of the model by itself.
    return all(type(part).__name__ == "InputLayer" or plan[part.name] != "float" for part in before)


def _nodes(model: Any) -> list[Any]:
    return [node for nodes in model._nodes_by_depth.values() for node in nodes]


def _before(layer: Any) -> Any:
    return tf.nest.flatten(layer._inbound_nodes[0].inbound_layers)[0]


def _consumers(layer: Any, model: Any) -> int:
    """Return the number of calls that take the output of the layer before `layer`."""
    return len([node for node in _before(layer)._outbound_nodes if node in _nodes(model)])


def _folds(layer: Any, model: Any) -> bool:
    before = _before(layer)
    is_output = any(tensor is before.output for tensor in model.outputs)
    return (
        type(before).__name__ in FOLDED_INTO
        and _consumers(layer, model) == 1
        and not is_output
        and before.activation.__name__ == "linear"
    )


def _registry() -> Any:
    import_tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )

    return default_8bit_quantize_registry.Default8BitQuantizeRegistry()


def _default_config(layer: Any) -> Any:
    return _registry().get_quantize_config(layer)


def _accepts(layer: Any) -> bool:
    try:
        _default_config(layer).get_output_quantizers(layer)
    except (ValueError, RuntimeError):
        return False
    return True


def calibrate(model: Any, batches: Iterable[Any]) -> None:
    """Set the ranges of all activations to those seen in some batches, before training.

    TF-MOT starts every range at -6 ... 6. A moving average with a decay of 0.999 needs thousands
    of steps to leave it, and the range of the input never shrinks.

    Args:
        model: A quantization-aware model.
        batches: Batches of inputs.
    """
    import_tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    for variable in model.variables:
        if re.search(r"_(min|max):\d+$", variable.name):
            variable.assign(tf.zeros_like(variable))
    updates: collections.Counter[int] = collections.Counter()

    def updating(name: str) -> Any:
        original = getattr(quant_ops, name)

        def quantize(*args: Any, **kwargs: Any) -> Any:
            kwargs["is_training"] = True
            if "ema_decay" in kwargs:
                # The mean so far; a shared layer updates its range several times a batch.
                seen = updates[id(args[1])]
                updates[id(args[1])] += 1
                kwargs["ema_decay"] = seen / (seen + 1.0)
            return original(*args, **kwargs)

        return quantize

    # Only the quantizers are in training mode: dropout is off, batch statistics stay.
    names = ("MovingAvgQuantize", "AllValuesQuantize", "LastValueQuantize")
    with unittest.mock.patch.multiple(quant_ops, **{name: updating(name) for name in names}):
        for x in batches:
            model(x, training=False)


def widen_empty_ranges(model: Any) -> None:
    """Give filters without any weight the range of their layer, after training.

    Pruning may empty a whole filter. Its range is then 0 ... 0, from which the converter makes a
    scale so small that the filter's bias, with BatchNormalization folded into it, does not fit
    into 32 bits: the file returns other values than the model. What the model returns does not
    change, since zero is zero in any range.

    Args:
        model: A quantization-aware model.
    """
    for layer in model.layers:
        for _, _, ranges in getattr(layer, "_weight_vars", []):
            low, high = ranges["min_var"], ranges["max_var"]
            limit = np.maximum(np.abs(low.numpy()), np.abs(high.numpy()))
            if limit.max(initial=0.0) == 0.0:
                # Without a single weight any range will do.
                widest = np.ones_like(limit)
            else:
                widest = np.full_like(limit, limit.max())
            widening = np.where(limit == 0.0, widest, 0.0)
            low.assign(low - widening)
            high.assign(high + widening)
