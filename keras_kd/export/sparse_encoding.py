"""Storing weights with many zeros in TFLite's sparse encoding."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

# XNNPACK takes over the conversion of float16 weights to float32, and leaves it undone for other
# operators: an embedding then reads memory that nobody has written.
_FLOAT16_TAKERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
# What the operator which decodes a tensor, and the tensor that it fills, take in the file.
_OVERHEAD = 400


# The type of weights and the operator which takes them, such as `("INT8", "CONV_2D")`.
Group = tuple[str, str]


def encodable(content: bytes) -> list[Group]:
    """Return the groups of weights which a sparse encoding would make smaller, the largest first.

    Args:
        content: A TFLite file's bytes.
    """
    saved: Counter[Group] = Counter()
    for weight in _weights(_Graphs(content)):
        if weight.saved > 0:
            for group in weight.groups:
                saved[group] += weight.saved
    return [group for group, _ in saved.most_common()]


def encode_sparse(content: bytes, groups: Collection[Group]) -> bytes:
    """Encode weights of a file sparsely where that makes it smaller.

    Every encoded tensor keeps its nonzero values and their positions in its innermost dimension
    (compressed sparse rows); a DENSIFY operator fills the dense tensor when the file is loaded.
    The numbers are the same.

    Args:
        content: A TFLite file's bytes.
        groups: Which weights: those all of whose uses belong to these groups.

    Returns:
        The changed bytes, or `content` itself if nothing would become smaller.
    """
    graphs = _Graphs(content)
    chosen = [w for w in _weights(graphs) if w.saved > 0 and w.groups <= set(groups)]
    for weight in chosen:
        graphs.model.buffers[weight.buffer].data = (
            weight.stored.view(np.uint8) if len(weight.stored) else np.zeros(1, np.uint8)
        )
        for graph, index in weight.places:
            shape = [int(size) for size in graph.tensors[index].shape]
            graph.tensors[index].sparsity = _parameters(
                shape, weight.segments, weight.indices, graphs.schema
            )
            _densify(graphs.model, graph, index, graphs.schema)
    return graphs.bytes() if chosen else content


class _Graphs:
    """The content of a file as objects that can be changed."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        self.schema: Any = schema
        self.model: Any = flatbuffer_utils.read_model_from_bytearray(content)
        self._pack = flatbuffer_utils.convert_object_to_bytearray

    def bytes(self) -> bytes:
        return bytes(self._pack(self.model))


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A buffer with weights, and its numbers as compressed sparse rows."""

    buffer: int
    places: list[tuple[Any, int]]
    groups: set[Group]
    stored: np.ndarray
    segments: np.ndarray
    indices: np.ndarray
    saved: int


def _weights(graphs: _Graphs) -> Iterator[_Weight]:
    schema, model = graphs.schema, graphs.model
    types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    uses: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            uses[tensor.buffer].append((graph, index))
    for number, places in uses.items():
        tensors = [graph.tensors[index] for graph, index in places]
        kind = types[tensors[0].type]
        if not _is_weight(model.buffers[number].data, tensors, kind):
            continue
        takers = {name for place in places for name in _takers(model, *place, schema)}
        if not takers or (kind == "FLOAT16" and not takers <= _FLOAT16_TAKERS):
            continue
        data = np.frombuffer(bytes(model.buffers[number].data), np.uint8)
        values = data.view({"FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1"}[kind])
        rows = values.reshape(-1, int(tensors[0].shape[-1]))
        kept = rows != 0
        indices = np.nonzero(kept)[1]
        segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        stored = rows[kept]
        size = stored.nbytes + _width(indices) * len(indices) + _width(segments) * len(segments)
        saved = values.nbytes - size - _OVERHEAD * len(places)
        groups = {(kind, name) for name in takers}
        yield _Weight(number, places, groups, stored, segments, indices, saved)


def _is_weight(data: Any, tensors: list[Any], kind: str) -> bool:
    """Whether a buffer is a matrix of numbers whose zeros are stored as zeros."""
    shape = [int(size) for size in tensors[0].shape] if tensors[0].shape is not None else []
    same = all(t.shape is not None and list(t.shape) == shape for t in tensors)
    if data is None or len(shape) < 2 or not same or any(t.sparsity for t in tensors):
        return False
    if kind == "INT8":
        quantization = tensors[0].quantization
        zeros = None if quantization is None else quantization.zeroPoint
        return zeros is not None and len(zeros) > 0 and not np.any(zeros)
    return kind in ("FLOAT32", "FLOAT16") and math.prod(shape) > 0


def _takers(model: Any, graph: Any, index: int, schema: Any) -> set[str]:
    """Names of the operators which take a tensor; those behind a DEQUANTIZE where there is one."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    found = set()
    for operator in graph.operators:
        if operator.inputs is not None and index in list(operator.inputs):
            name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
            if name == "DEQUANTIZE":
                found |= _takers(model, graph, operator.outputs[0], schema)
            else:
                found.add(name)
    return found


def _width(numbers: np.ndarray) -> int:
    largest = int(numbers.max(initial=0))
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


def _parameters(shape: list[int], segments: np.ndarray, indices: np.ndarray, schema: Any) -> Any:
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder = list(range(len(shape)))
    parameters.blockMap = []
    parameters.dimMetadata = []
    for size in shape[:-1]:
        dimension = schema.DimensionMetadataT()
        dimension.format, dimension.denseSize = schema.DimensionType.DENSE, size
        parameters.dimMetadata.append(dimension)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType, last.arraySegments = _vector(segments, schema)
    last.arrayIndicesType, last.arrayIndices = _vector(indices, schema)
    parameters.dimMetadata.append(last)
    return parameters


def _vector(numbers: np.ndarray, schema: Any) -> tuple[int, Any]:
    width = _width(numbers)
    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[width]
    vector = getattr(schema, f"{name}T")()
    vector.values = numbers.astype({1: "<u1", 2: "<u2", 4: "<i4"}[width])
    return getattr(schema.SparseIndexVector, name), vector


def _densify(model: Any, graph: Any, index: int, schema: Any) -> None:
    """Put a DENSIFY operator between a tensor and those which take it."""
    source = graph.tensors[index]
    tensor = schema.TensorT()
    tensor.name = bytes(source.name) + b"/dense"
    tensor.shape, tensor.type, tensor.buffer = source.shape, source.type, 0
    tensor.quantization = source.quantization
    graph.tensors.append(tensor)
    target = len(graph.tensors) - 1
    for operator in graph.operators:
        if operator.inputs is not None:
            operator.inputs = [target if i == index else i for i in operator.inputs]
    operator = schema.OperatorT()
    operator.opcodeIndex = _code(model, schema)
    operator.inputs, operator.outputs = [index], [target]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    graph.operators.insert(0, operator)


def _code(model: Any, schema: Any) -> int:
    number = schema.BuiltinOperator.DENSIFY
    for i, code in enumerate(model.operatorCodes):
        if code.builtinCode == number:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
