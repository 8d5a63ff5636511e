"""Weights in 4 bits, through `ai-edge-quantizer`."""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter

from keras_kd.export.embedding_lookup import gathers_to_lookups
from keras_kd.litert.four_bits import LEAST_WEIGHTS
from keras_kd.litert.model_file import ModelFile

# Where LiteRT has kernels for weights in 4 bits, and those where it has them for 8 bits only.
_FOUR = ("CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED")
_EIGHT = ("BATCH_MATMUL", "CONV_2D_TRANSPOSE", "DEPTHWISE_CONV_2D")
# Operators whose constant inputs are weights, where those of others are numbers to add or compare.
WITH_WEIGHTS = (
    *_FOUR, "BATCH_MATMUL", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE",
    "GATHER", "UNIDIRECTIONAL_SEQUENCE_LSTM",
)  # fmt: skip
_TFLITE_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


def check_installed() -> None:
    """Make sure that `ai-edge-quantizer` is there.

    Raises:
        ValueError: If it is not.
    """
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise ValueError(
            '`quantization="int4"` needs the package ai-edge-quantizer, which is not installed. '
            'Install it: pip install "keras-kd[int4]".'
        )


def to_int4(content: bytes, trained: bool = False) -> bytes:
    """Store the weights of a float32 file in 4 bits.

    Weights of dense layers, convolutions and embeddings get 4 bits with one scale for each output
    channel (each row of an embedding), chosen by OCTAV, which clips what few large weights would
    cost all others. Weights that were trained for 4 bits lie on such a grid, which is found again
    from the largest of a channel. Depthwise and transposed convolutions, for which LiteRT has no
    kernels of 4 bits, and kernels of fewer than 1,024 numbers get 8 bits. Activations are quantized
    to 8 bits while running, as with `"dynamic"`.

    Args:
        content: A float32 TFLite file's bytes.
        trained: Whether the weights were trained for 4 bits. Defaults to `False`.

    Returns:
        The bytes of the quantized file.

    Raises:
        ValueError: If the quantizer refuses the file.

    Source: Sakr et al., 2022, "Optimal Clipping and Magnitude-aware Differentiation for Improved
    Quantization-aware Training" (arXiv:2206.06501), for OCTAV.
    """
    check_installed()
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    content = gathers_to_lookups(content)
    recipe = recipe_manager.RecipeManager()
    name = qtyping.TFLOperationName
    for operation in _EIGHT:
        recipe.add_dynamic_config(".*", name(operation), num_bits=8)
    algorithm = "min_max_uniform_quantize" if trained else "OCTAV"
    for operation in _FOUR:
        recipe.add_dynamic_config(".*", name(operation), num_bits=4, algorithm_key=algorithm)
    for scope, operation in _small(content):
        recipe.add_dynamic_config(f"^{re.escape(scope)}", name(operation), num_bits=8)
    try:
        job = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe())
        quantized = job.quantize(enable_progress_report=False).quantized_model
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"ai-edge-quantizer could not store the weights in 4 bits: {error} "
            'Export with `quantization="int8"` or "dynamic".'
        ) from error
    return bytes(quantized)


def weights_above_4_bits(content: bytes) -> dict[str, Counter[str]]:
    """Return which operators kept weights of more than 4 bits.

    Args:
        content: A quantized file's bytes.

    Returns:
        By type of the weights (`"INT8"`, `"FLOAT32"`), how often each operator occurs. Kernels of
        fewer than 1,024 numbers do not count.
    """
    kept: dict[str, Counter[str]] = {}
    for name, _, kind, size in _weights(content):
        if name in WITH_WEIGHTS and size >= LEAST_WEIGHTS and kind in ("INT8", "FLOAT32"):
            kept.setdefault(kind, Counter())[name] += 1
    return kept


def _small(content: bytes) -> list[tuple[str, str]]:
    """Output names and operations of those with few weights."""
    found = []
    for name, output, kind, size in _weights(content):
        name = _TFLITE_NAMES.get(name, name)
        if name in _FOUR and kind == "FLOAT32" and size < LEAST_WEIGHTS:
            found.append((output, name))
    return found


def _weights(content: bytes) -> list[tuple[str, str, str, int]]:
    """Operator, name of its output, type and number of elements of every constant matrix."""
    file = ModelFile(content)
    found = []
    for operator in file.operators():
        if operator.name in ("DEQUANTIZE", "QUANTIZE", "RESHAPE") or not operator.outputs:
            continue
        for index in operator.input_indices:
            tensor = file.tensor(operator.graph, index) if index >= 0 else None
            if tensor is not None and len(tensor.shape) >= 2 and tensor.data is not None:
                size = math.prod(tensor.shape)
                found.append((operator.name, operator.outputs[0], tensor.kind, size))
    return found
