"""How much memory TensorFlow Lite for Microcontrollers needs, estimated from the file alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras_kd.litert.model_file import Graph, Operator

# Sizes in bytes of what the runtime keeps for the whole run, with 8-byte pointers; a
# microcontroller's are smaller.
_ALIGNMENT = 16
_PER_TENSOR = 24
_PER_NODE = 64
_OPERATOR_DATA = 192
_PER_CHANNEL = 8
_PER_INPUT_OR_OUTPUT = 96
_FIXED = 1024
_INT16_SOFTMAX_TABLES = 2 * 513 * 2


def estimate_arena(graphs: Sequence[Graph]) -> int:
    """Return an estimate, on the safe side, of the arena that a file needs.

    Activations are laid out as the runtime's greedy planner does: every tensor that is not stored
    in the file lives from the operator which writes it to the last one which reads it; the largest
    is placed first, each at the lowest address at which it overlaps no other that lives at the
    same time. To that comes an allowance for what the runtime keeps of each tensor, operator and
    channel. Graphs inside a graph (loops) are counted as if they lived at the same time.

    Args:
        graphs: The file's graphs.

    Returns:
        Bytes.
    """
    activations = sum(activation_bytes(graph) for graph in graphs)
    return math.ceil((activations + _records(graphs)) / _ALIGNMENT) * _ALIGNMENT


def activation_bytes(graph: Graph) -> int:
    """Return how many bytes the activations of one graph take when they share memory."""
    first: dict[int, int] = {index: 0 for index in graph.inputs}
    last: dict[int, int] = {index: 0 for index in graph.inputs}
    for step, operator in enumerate(graph.operators):
        for index in (*operator.input_indices, *operator.output_indices):
            first.setdefault(index, step)
            last[index] = step
    for index in graph.outputs:
        first.setdefault(index, 0)
        last[index] = len(graph.operators)
    requests = [
        (_aligned(graph.tensors[index].bytes), first[index], last[index])
        for index in first
        if index >= 0 and not graph.tensors[index].constant and not graph.tensors[index].variable
    ]
    return pack([request for request in requests if request[0]])


def pack(requests: Sequence[tuple[int, int, int]]) -> int:
    """Place blocks of memory, the largest first, and return how high they reach.

    Args:
        requests: Size in bytes, first and last step at which it is needed, of every block.
    """
    placed: list[tuple[int, int, int, int]] = []
    for size, begin, end in sorted(requests, key=lambda request: (-request[0], request[1])):
        offset = 0
        for start, length, other_begin, other_end in sorted(placed):
            if other_begin > end or other_end < begin:
                continue
            if start - offset >= size:
                break
            offset = max(offset, start + length)
        placed.append((offset, size, begin, end))
    return max((offset + size for offset, size, _, _ in placed), default=0)


def _records(graphs: Sequence[Graph]) -> int:
    size = _FIXED
    for graph in graphs:
        size += _PER_TENSOR * len(graph.tensors)
        size += (_PER_NODE + _OPERATOR_DATA) * len(graph.operators)
        size += sum(_table(graph, operator) for operator in graph.operators)
        size += _PER_INPUT_OR_OUTPUT * (len(graph.inputs) + len(graph.outputs))
        for tensor in graph.tensors:
            if tensor.constant and tensor.scales:
                size += _PER_CHANNEL * len(tensor.scales)
            if tensor.variable:
                size += _aligned(tensor.bytes)
    return size


def _table(graph: Graph, operator: Operator) -> int:
    """Bytes of the tables which an operator computes before the first run."""
    if operator.name == "SOFTMAX" and graph.tensors[operator.input_indices[0]].kind == "INT16":
        return _INT16_SOFTMAX_TABLES
    return 0


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNMENT) * _ALIGNMENT
