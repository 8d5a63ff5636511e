"""Rewriting look-ups in tables, so that the tables can be stored in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np


def gathers_to_lookups(content: bytes) -> bytes:
    """Turn GATHER operators on the rows of a float table into EMBEDDING_LOOKUP.

    What a Keras `Embedding` becomes is GATHER, which gives numbers of its table's own type;
    EMBEDDING_LOOKUP reads a quantized table and gives float32. It takes one dimension of indices:
    reshapes are put around it where there are more.

    Args:
        content: A TFLite file's bytes.

    Returns:
        The changed bytes, or `content` itself if there is nothing to change.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(content)
    codes = _OperatorCodes(model, schema)
    changed = False
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            if not codes.is_gather(operator) or not _reads_rows(model, graph, operator, schema):
                operators.append(operator)
                continue
            changed = True
            operators += _lookup(model, graph, operator, codes, schema)
        graph.operators = operators
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else content


class _OperatorCodes:
    """The table of operator codes of a model, to which missing ones are added."""

    def __init__(self, model: Any, schema: Any) -> None:
        self._model, self._schema = model, schema

    def is_gather(self, operator: Any) -> bool:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return code.builtinCode == self._schema.BuiltinOperator.GATHER

    def index(self, number: int, version: int) -> int:
        for i, code in enumerate(self._model.operatorCodes):
            if code.builtinCode == number:
                code.version = max(code.version, version)
                return i
        added = self._schema.OperatorCodeT()
        added.builtinCode, added.version = number, version
        added.deprecatedBuiltinCode = min(number, 127)
        self._model.operatorCodes.append(added)
        return len(self._model.operatorCodes) - 1


def _reads_rows(model: Any, graph: Any, operator: Any, schema: Any) -> bool:
    """Whether a GATHER takes rows of a constant float32 table by int32 indices."""
    table, indices = (graph.tensors[i] for i in operator.inputs)
    axis = getattr(operator.builtinOptions, "axis", 0)
    batch = getattr(operator.builtinOptions, "batchDims", 0)
    data = model.buffers[table.buffer].data
    signature = indices.shapeSignature
    signature = indices.shape if signature is None or not len(signature) else signature
    return (
        axis == 0
        and not batch
        and data is not None
        and len(data) > 0
        and table.type == schema.TensorType.FLOAT32
        and indices.type == schema.TensorType.INT32
        and len(table.shape) == 2
        and len(indices.shape) >= 1
        and sum(size < 0 for size in signature) <= 1
    )


def _lookup(model: Any, graph: Any, operator: Any, codes: _OperatorCodes, schema: Any) -> list[Any]:
    table, indices = operator.inputs
    (output,) = operator.outputs
    rank = len(graph.tensors[indices].shape)
    width = int(graph.tensors[table].shape[1])
    before, after = [], []
    if rank > 1:
        name = bytes(graph.tensors[output].name).decode()
        count = int(np.prod(graph.tensors[indices].shape))
        signature = graph.tensors[indices].shapeSignature
        is_open = signature is not None and any(size < 0 for size in signature)
        flat = _tensor(graph, f"{name}/indices", [count], schema.TensorType.INT32, schema, is_open)
        rows = _tensor(
            graph, f"{name}/rows", [count, width], schema.TensorType.FLOAT32, schema, is_open
        )
        signature = graph.tensors[output].shapeSignature
        shape = graph.tensors[output].shape if not is_open else signature
        before = [_reshape(model, graph, indices, flat, [-1], codes, schema)]
        after = [_reshape(model, graph, rows, output, [int(s) for s in shape], codes, schema)]
        indices, output = flat, rows
    lookup = schema.OperatorT()
    lookup.opcodeIndex = codes.index(schema.BuiltinOperator.EMBEDDING_LOOKUP, 1)
    lookup.inputs, lookup.outputs = [indices, table], [output]
    return [*before, lookup, *after]


def _tensor(
    graph: Any, name: str, shape: list[int], kind: int, schema: Any, is_open: bool = False
) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, kind, 0
    if is_open:
        tensor.shapeSignature = [-1, *shape[1:]]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _reshape(
    model: Any,
    graph: Any,
    source: int,
    target: int,
    shape: list[int],
    codes: _OperatorCodes,
    schema: Any,
) -> Any:
    buffer = schema.BufferT()
    buffer.data = np.array(shape, "<i4").view(np.uint8)
    model.buffers.append(buffer)
    name = bytes(graph.tensors[target].name).decode()
    constant = _tensor(graph, f"{name}/shape", [len(shape)], schema.TensorType.INT32, schema)
    graph.tensors[constant].buffer = len(model.buffers) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex = codes.index(schema.BuiltinOperator.RESHAPE, 1)
    operator.inputs, operator.outputs = [source, constant], [target]
    options = schema.ReshapeOptionsT()
    options.newShape = shape
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = options
    return operator
