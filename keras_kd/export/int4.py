"""Weights in 4 bits, through `ai-edge-quantizer`, in the operators that read such weights."""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_kd.litert.constants import LEAST_WEIGHTS
from keras_kd.litert.model_file import BITS, FLOATS, ModelFile

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


def to_int4(
    file: ModelFile,
    clip: bool | Collection[str] = True,
    bits: int = 4,
    eight: Collection[str] = (),
) -> ModelFile:
    """Return a float32 file with its weights in 4 bits.

    Weights of dense layers, convolutions and embeddings get 4 bits with one scale for each output
    channel (each row of an embedding). It reaches from the smallest to the largest weight, or is
    chosen by OCTAV, which clips what few large weights would cost all others. Depthwise and
    transposed convolutions, for which LiteRT has no kernels of 4 bits, and kernels of fewer than
    1,024 numbers get 8 bits. Activations are quantized to 8 bits while running, as with
    `"dynamic"`.

    Args:
        file: A float32 file, whose GATHER operators become EMBEDDING_LOOKUP.
        clip: Whether large weights may be clipped, or the names of the outputs of operators of
            which they may. Weights that were trained for 4 bits must not be: they lie on a grid
            that is found again from the largest. Defaults to `True`.
        bits: Bits of the weights that may have 4. Defaults to `4`.
        eight: Names of the outputs of operators whose weights get 8 bits. Defaults to none.

    Raises:
        ValueError: If the quantizer refuses the file.

    Reference:
        Sakr et al., 2022, "Optimal Clipping and Magnitude-aware Differentiation for Improved
        Quantization-aware Training" (arXiv:2206.06501), for OCTAV.
    """
    check_installed()
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    gathers_to_lookups(file)
    recipe = recipe_manager.RecipeManager()
    name = qtyping.TFLOperationName
    for operation in _EIGHT:
        recipe.add_dynamic_config(".*", name(operation), num_bits=8)
    whole, clipped = "min_max_uniform_quantize", "OCTAV"
    for operation in _FOUR:
        algorithm = clipped if clip is True and bits < 8 else whole
        recipe.add_dynamic_config(".*", name(operation), num_bits=bits, algorithm_key=algorithm)
    for output, operation, size in _kernels(file):
        settings: dict[str, Any] = {}
        if size < LEAST_WEIGHTS or output in eight:
            settings = {"num_bits": 8}
        elif not isinstance(clip, bool) and output in clip:
            settings = {"num_bits": bits, "algorithm_key": clipped}
        if settings:
            # The quantizer ends the name of each output with a semicolon.
            recipe.add_dynamic_config(f"^{re.escape(output)};", name(operation), **settings)
    try:
        # Of a buffer that two tensors share, the quantizer would have to make two.
        given = bytearray(file.packed(share_buffers=False))
        job = quantizer.Quantizer(given, recipe.get_quantization_recipe())
        quantized = job.quantize(enable_progress_report=False).quantized_model
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"ai-edge-quantizer could not store the weights in 4 bits: {error} "
            'Export with `quantization="int8"` or "dynamic".'
        ) from error
    return ModelFile(bytes(quantized))


def larger_weights(
    file: ModelFile, bits: int, asked: Collection[str] = ()
) -> tuple[dict[str, Counter[str]], bool]:
    """Return which operators kept weights of more bits.

    Args:
        file: A quantized file.
        bits: The bits that were asked for.
        asked: Names of the outputs of operators that do not count. Defaults to none.

    Returns:
        By type of the weights (`"INT8"`, `"FLOAT32"`), how often each operator occurs, and whether
        others have fewer bits. If there are, kernels of fewer than 1,024 numbers do not count.
    """
    found = [
        (name, kind, size)
        for name, output, kind, size in _weights(file)
        if name in WITH_WEIGHTS and output not in asked and kind in ("INT8", "FLOAT32")
    ]
    # Behind a DEQUANTIZE, too; integers without a scale are shapes and indices.
    stored = (tensor for graph in file.graphs() for tensor in graph.tensors if tensor.constant)
    small = (t.kind for t in stored if t.scales or t.kind in FLOATS)
    some = any(BITS.get(kind, 64) <= bits for kind in small)
    kept: dict[str, Counter[str]] = {}
    for name, kind, size in found:
        if BITS[kind] > bits and (size >= LEAST_WEIGHTS or not some):
            kept.setdefault(kind, Counter())[name] += 1
    return kept, some


def _kernels(file: ModelFile) -> list[tuple[str, str, int]]:
    """Output name, operation and number of weights of all that may have 4 bits."""
    found = []
    for name, output, kind, size in _weights(file):
        name = _TFLITE_NAMES.get(name, name)
        if name in _FOUR and kind == "FLOAT32":
            found.append((output, name, size))
    return found


def _weights(file: ModelFile) -> list[tuple[str, str, str, int]]:
    """Operator, name of its output, type and number of elements of every constant matrix."""
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


def gathers_to_lookups(file: ModelFile) -> bool:
    """Turn GATHER operators on the rows of a float table into EMBEDDING_LOOKUP.

    What a Keras `Embedding` becomes is GATHER, which gives numbers of its table's own type;
    EMBEDDING_LOOKUP reads a quantized table and gives float32. It takes one dimension of indices:
    reshapes are put around it where there are more.

    Args:
        file: The file, which is changed.

    Returns:
        Whether anything was.
    """
    changed = False
    for number, graph in enumerate(file.model.subgraphs):
        operators = []
        for operator in graph.operators:
            if not _reads_rows(file, number, operator):
                operators.append(operator)
                continue
            changed = True
            operators += _lookup(file, number, operator)
        graph.operators = operators
    return changed


def _reads_rows(file: ModelFile, graph: int, operator: Any) -> bool:
    """Whether an operator is a GATHER of rows of a constant float32 table by int32 indices."""
    if file.operator_name(operator)[0] != "GATHER":
        return False
    table, indices = (file.tensor(graph, int(i)) for i in operator.inputs)
    return (
        getattr(operator.builtinOptions, "axis", 0) == 0
        and not getattr(operator.builtinOptions, "batchDims", 0)
        and table.constant
        and (table.kind, indices.kind) == ("FLOAT32", "INT32")
        and len(table.shape) == 2
        and len(indices.shape) >= 1
        # One reshape writes the output's shape: it can leave one size open.
        and len(indices.open_dimensions) <= 1
    )


def _lookup(file: ModelFile, graph: int, operator: Any) -> list[Any]:
    table, indices = (int(i) for i in operator.inputs)
    output = int(operator.outputs[0])
    given, made = file.tensor(graph, indices), file.tensor(graph, output)
    before, after = [], []
    if len(given.shape) > 1:
        count, width = math.prod(given.shape), file.tensor(graph, table).shape[1]
        open_size = bool(given.open_dimensions)
        flat = _add_tensor(file, graph, f"{made.name}/indices", (count,), "INT32", open_size)
        rows = _add_tensor(file, graph, f"{made.name}/rows", (count, width), "FLOAT32", open_size)
        shape = made.signature if open_size else made.shape
        before = [_reshape(file, graph, indices, flat, (-1,))]
        after = [_reshape(file, graph, rows, output, shape)]
        indices, output = flat, rows
    lookup = file.schema.OperatorT(
        opcodeIndex=file.operator_code("EMBEDDING_LOOKUP"),
        inputs=[indices, table],
        outputs=[output],
    )
    return [*before, lookup, *after]


def _add_tensor(
    file: ModelFile,
    graph: int,
    name: str,
    shape: tuple[int, ...],
    kind: str,
    open_size: bool = False,
    buffer: int = 0,
) -> int:
    tensor = file.schema.TensorT(
        name=name.encode(), shape=list(shape), type=getattr(file.schema.TensorType, kind)
    )
    tensor.buffer = buffer
    if open_size:
        tensor.shapeSignature = [-1, *shape[1:]]
    tensors = file.model.subgraphs[graph].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def _reshape(file: ModelFile, graph: int, source: int, target: int, shape: tuple[int, ...]) -> Any:
    schema, name = file.schema, file.tensor(graph, target).name
    buffer = file.add_buffer(np.array(shape, "<i4"))
    constant = _add_tensor(file, graph, f"{name}/shape", (len(shape),), "INT32", buffer=buffer)
    return schema.OperatorT(
        opcodeIndex=file.operator_code("RESHAPE"),
        inputs=[source, constant],
        outputs=[target],
        builtinOptionsType=schema.BuiltinOptions.ReshapeOptions,
        builtinOptions=schema.ReshapeOptionsT(newShape=list(shape)),
    )
