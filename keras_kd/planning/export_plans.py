"""What an export will do with each layer, as far as it can be told before the conversion."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.export.int4 import check_installed
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.refusals import (
    LOOKUPS,
    missing_data,
    open_number_of_steps,
)
from keras_kd.export.saved_model import source_of
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.constants import LEAST_WEIGHTS
from keras_kd.litert.metadata import open_file
from keras_kd.measuring.layer_names import LayerNames
from keras_kd.models.graph import calls_behind, calls_of, flat_layers, origin_of
from keras_kd.models.keras_2_masks import plain_type
from keras_kd.models.layer_plan import LayerPlan
from keras_kd.models.layers import acts_in_training_only

_SAMPLES = 4
_OPEN_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a conversion on trial gave.

    Attributes:
        refusal: The message with which the export was refused, or `""`.
        operators: How often each operator occurs in the file.
        layers: The same by the path of the layer; operators that were fused count for the layer
            that their output is named after.
        float_layers: How many of them compute in float in an integer file, by path.
    """

    refusal: str
    operators: dict[str, int]
    layers: dict[str, dict[str, int]]
    float_layers: dict[str, int]


def try_export(model: keras.Model, paths: Sequence[str], quantization: str) -> Trial:
    """Export a model to a file that is thrown away.

    Args:
        model: A built Keras 3 model.
        paths: The paths of its layers.
        quantization: The format. Ranges come from random numbers.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pathlib.Path(folder) / "model.tflite"
        integers = quantization in ("int8", "int16x8")
        data = _random_samples(model) if integers else None
        try:
            export_tflite(
                model,
                file,
                quantization,
                representative_data=data,
                on_disagreement="ignore",
                calibration="minmax",
                verbose=False,
            )
        except ValueError as error:
            return Trial(str(error).replace(str(file), file.name), {}, {}, {})
        content = open_file(file)
    layers: dict[str, Counter[str]] = {}
    spoken = [name for operator in content.operators() for name in operator.outputs]
    names = LayerNames(model.name, paths, spoken)
    for operator in content.operators():
        path = _layer_of(operator.outputs, names, paths)
        if path is not None:
            layers.setdefault(path, Counter())[operator.name] += 1
    floating = content.float_operators() if integers else []
    floats = [_layer_of(operator.outputs, names, paths) for operator in floating]
    return Trial(
        "",
        content.operator_counts(),
        {path: dict(counts) for path, counts in layers.items()},
        dict(Counter(path for path in floats if path is not None)),
    )


def _layer_of(outputs: Sequence[str], names: LayerNames, paths: Sequence[str]) -> str | None:
    """Return the path of the layer which an operator's output is named after.

    Tensors are named after the call stack, `"model_1/block_1/conv_1/Relu"`; of operators that were
    fused, the names are joined by semicolons, the last layer's first.
    """
    for name in ";".join(outputs).split(";"):
        if known := names.layers(name):
            return known[0]
        parts = name.split("/")
        # A scope that is opened a second time gets a number.
        for scopes in ([re.sub(r"_\d+$", "", part) for part in parts], parts):
            joined = f"/{'/'.join(scopes)}/"
            found = [path for path in paths if f"/{path}/" in joined]
            if found:
                return max(found, key=len)
    return None


def _random_samples(model: keras.Model) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    samples = {}
    for given in KerasSource(model).inputs:
        shape = (_SAMPLES, *(_OPEN_SIZE if size is None else size for size in given.shape[1:]))
        if np.dtype(given.dtype).kind == "f":
            samples[given.name] = generator.uniform(-1.0, 1.0, shape).astype(given.dtype)
        else:
            samples[given.name] = generator.integers(0, 2, shape).astype(given.dtype)
    return samples


_WEIGHTS = {
    "float32": "float32",
    "float16": "float16 weights",
    "weight_only": "8-bit weights, computed in float",
    "dynamic": "8-bit weights",
    "int8": "8 bits",
    "int16x8": "8-bit weights, 16-bit values",
    "int4": "4-bit weights",
}
_VALUES = {
    "float32": "float32",
    "float16": "float32",
    "weight_only": "float32",
    "dynamic": "float32",
    "int8": "8 bits",
    "int16x8": "16 bits",
    "int4": "float32",
}
# TFLite has no integer kernels for these.
_FLOAT = ("Conv3D", "Conv3DTranspose")
_FLOAT_ONLY = "TFLite computes {} in float only"
_FOLDED_INTO = ("Conv1D", "Conv2D", "Conv3D", "Dense", "DepthwiseConv2D")
# LiteRT has no kernels with weights of 4 bits for these, or for a part of what they become.
_EIGHT_BITS = ("Conv1DTranspose", "Conv2DTranspose", "DepthwiseConv1D", "DepthwiseConv2D")
_PARTLY_EIGHT_BITS = ("SeparableConv1D", "SeparableConv2D")


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """What an export will do with a model.

    Attributes:
        layers: The plans by path of the layer.
        refusal: The message with which the export will refuse the model, or `""`.
        notes: What it needs or warns of, in the same words.
    """

    layers: dict[str, LayerPlan]
    refusal: str
    notes: tuple[str, ...]


def plan_export(
    model: keras.Model,
    layers: Sequence[tuple[str, Any]],
    quantization: str,
    quantization_aware: bool = False,
) -> ExportPlan:
    """Say what `export_tflite` will do with a model, without converting it.

    Args:
        model: A built Keras 3 model.
        layers: Path and layer (or operation) of all that it is made of.
        quantization: The format.
        quantization_aware: Whether the model will have been trained for 8-bit activations. Defaults
            to `False`.
    """
    plans = {path: _plan(layer, quantization) for path, layer in layers}
    try:
        source = source_of(model)
        if quantization == "int4":
            check_installed()
    except (ValueError, TypeError) as error:
        return ExportPlan(plans, str(error), ())
    refusal = ""
    if quantization != "float32" and source.recurrent_layers and source.open_steps:
        refusal = open_number_of_steps(quantization, source.open_steps)
    notes = []
    if quantization in ("int8", "int16x8") and not (quantization == "int8" and quantization_aware):
        notes.append(missing_data(quantization))
    if quantization == "int8" and quantization_aware:
        notes.append(
            "What QuantizeAware leaves in float is calibrated where `representative_data` is "
            "given, and stays in float otherwise."
        )
    return ExportPlan(plans, refusal, tuple(notes))


def _plan(layer: Any, quantization: str) -> LayerPlan:
    name = plain_type(layer).__name__
    own = not plain_type(layer).__module__.startswith("keras.")
    if isinstance(layer, keras.layers.InputLayer):
        return LayerPlan("input")
    if own:
        return LayerPlan(
            "not known",
            f"{name} is not a layer of Keras: its operators are only known after a conversion",
            "convert on trial: check(..., convert=True)",
        )
    if name in LOOKUPS:
        return LayerPlan("refused", "TFLite has no builtin operator that hashes or looks up")
    if acts_in_training_only(name):
        return LayerPlan("vanish")
    if _recurrent(layer):
        if quantization == "float32":
            return LayerPlan("loop", "its steps are a WHILE operator, so that the batch is fixed")
        return LayerPlan(f"unrolled, {_WEIGHTS[quantization]}")
    if name == "BatchNormalization" and _follows_linear_kernel(layer):
        return LayerPlan("fold")
    if name in _FLOAT and quantization in ("int8", "int16x8", "int4"):
        return LayerPlan("float", _FLOAT_ONLY.format("it"))
    sizes = [weight.value.shape.num_elements() for weight in getattr(layer, "weights", [])]
    if not sizes:
        return LayerPlan(_VALUES[quantization])
    if quantization == "int4":
        return _four_bits(layer)
    if quantization in ("weight_only", "dynamic") and max(sizes) < LEAST_WEIGHTS:
        return LayerPlan("float32", f"its largest weight has fewer than {LEAST_WEIGHTS:,} numbers")
    return LayerPlan(_WEIGHTS[quantization])


def _four_bits(layer: Any) -> LayerPlan:
    name = type(layer).__name__
    kernels = [weight.value.shape for weight in layer.weights if weight.value.shape.rank > 1]
    if not kernels:
        return LayerPlan("float32")
    if name in _EIGHT_BITS:
        return LayerPlan("8-bit weights", "LiteRT has no kernels with 4 bits for it")
    if name in _PARTLY_EIGHT_BITS:
        return LayerPlan("4- and 8-bit weights", "LiteRT has no depthwise kernels with 4 bits")
    if max(shape.num_elements() for shape in kernels) < LEAST_WEIGHTS:
        reason = f"its largest weight has fewer than {LEAST_WEIGHTS:,} numbers"
        return LayerPlan("8-bit weights", reason)
    return LayerPlan("4-bit weights")


def with_operators(plans: Mapping[str, LayerPlan], trial: Trial) -> dict[str, LayerPlan]:
    """Return plans with what a conversion on trial told.

    Args:
        plans: The plans by path.
        trial: The trial.
    """
    result = {}
    for path, plan in plans.items():
        operators = trial.layers.get(path, {})
        named = ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in operators.items())
        floats = trial.float_layers.get(path, 0)
        if floats and floats == sum(operators.values()):
            plan = LayerPlan("float", _FLOAT_ONLY.format("it"))
        elif floats:
            plan = LayerPlan("partly float", _FLOAT_ONLY.format("some of its operators"))
        elif plan.action == "not known":
            plan = LayerPlan("converted" if operators else "merged with other layers")
        result[path] = dataclasses.replace(plan, operators=named)
    return result


def _recurrent(layer: Any) -> bool:
    if not isinstance(layer, keras.layers.Layer):
        return False
    return any(
        isinstance(part, keras.layers.RNN) and not part.unroll for part in flat_layers(layer)
    )


def _follows_linear_kernel(layer: Any) -> bool:
    """Whether the one call of a layer takes what only it takes from a layer with a kernel."""
    if len(calls_of(layer)) != 1:
        return False
    (tensor,) = calls_of(layer)[0].arguments.keras_tensors[:1]
    before = origin_of(tensor)
    if before is None or type(before.operation).__name__ not in _FOLDED_INTO:
        return False
    operation = before.operation
    linear = getattr(operation, "activation", None) in (None, keras.activations.linear)
    return linear and len(calls_behind(operation)) == 1
