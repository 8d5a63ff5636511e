"""The numbers stored in a TFLite file: how many they are, whose they are, and what they take."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import numpy as np

from keras_kd.litert.model_file import BITS, FLOATS, ModelFile, Tensor

# Kernels with fewer numbers save next to nothing in fewer bits, and are often the first layer's:
# the converter leaves them in float where only weights are quantized, and they get no 4 bits.
LEAST_WEIGHTS = 1024
# What only changes the form of a constant: its own consumers are the ones that say whose it is.
_FORMS = ("DEQUANTIZE", "DENSIFY", "QUANTIZE", "CAST", "RESHAPE", "TRANSPOSE")


@dataclasses.dataclass(frozen=True)
class Constants:
    """The numbers stored in a file: weights, biases and embedding tables.

    Shapes, axes, indices and other integer arguments of operators are not counted.

    Attributes:
        elements: How many numbers the dense tensors hold.
        zeros: How many of them stand for zero (those a sparse encoding leaves out included).
        types: Elements per type, as `{"INT8": 1200, "INT32": 30}`.
        sparse_tensors: How many tensors are stored in a sparse encoding.
        parameters: How many of the elements are in tensors of more than one element; the others
            are numbers of the arithmetic, as an epsilon or a scale.
    """

    elements: int
    zeros: int
    types: dict[str, int]
    sparse_tensors: int
    parameters: int = 0

    @property
    def sparsity(self) -> float:
        """Share of zeros, between 0 and 1."""
        return self.zeros / self.elements if self.elements else 0.0


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One constant.

    Attributes:
        name: Its name: the operations that it came from, joined by semicolons.
        users: Names of the outputs of the operators that take it.
        axes: Number of its axes.
        elements: How many numbers it stands for.
        zeros: How many of them stand for zero; `None` for what is no weight (a shape, an index).
        bits: Bits of a number, or `None` for strings and the like.
        bytes: Size of its buffer; 0 where that is the buffer of a constant before it, too.
    """

    name: str
    users: tuple[str, ...]
    axes: int
    elements: int
    zeros: int | None
    bits: int | None
    bytes: int


def count_constants(file: ModelFile) -> Constants:
    """Count the numbers in a file, once where several signatures use them."""
    elements = zeros = sparse = parameters = 0
    types: Counter[str] = Counter()
    for _, _, tensor, _ in _constants(file):
        found = _zeros(tensor)
        if found is None:
            continue
        sparse += tensor.sparse
        elements += tensor.elements
        parameters += tensor.elements if tensor.elements > 1 else 0
        zeros += found
        types[tensor.kind] += tensor.elements
    return Constants(elements, zeros, dict(types.most_common()), sparse, parameters)


def stored_tensors(file: ModelFile) -> list[StoredTensor]:
    """Return the constants of a file, once where several signatures use them."""
    users = [_users(file, graph) for graph in range(len(file.model.subgraphs))]
    return [
        StoredTensor(
            name=tensor.name,
            users=users[graph].get(index, ()),
            axes=len(tensor.shape),
            elements=tensor.elements,
            zeros=_zeros(tensor),
            bits=BITS.get(tensor.kind),
            bytes=size,
        )
        for graph, index, tensor, size in _constants(file)
    ]


def _constants(file: ModelFile) -> Iterator[tuple[int, int, Tensor, int]]:
    """Graph, index, tensor and bytes of every constant, none of whose buffers an earlier graph has.

    Equal constants share a buffer, also within a graph: its bytes then count for the first.
    """
    before: set[int] = set()
    for number, graph in enumerate(file.model.subgraphs):
        here: set[int] = set()
        for index in range(len(graph.tensors or ())):
            tensor = file.tensor(number, index)
            if tensor.data is not None and tensor.buffer not in before:
                yield number, index, tensor, 0 if tensor.buffer in here else tensor.data.nbytes
                here.add(tensor.buffer)
        before |= here


def _zeros(tensor: Tensor) -> int | None:
    """How many numbers of a weight stand for zero; `None` for what is no weight."""
    if tensor.data is None or tensor.kind not in BITS:
        return None
    if tensor.kind not in FLOATS and not tensor.scales:
        return None
    count = None if tensor.sparse else tensor.elements
    zero_point = next(iter(tensor.zero_points), 0)
    stored, zeros = count_zeros(tensor.data, tensor.kind, zero_point, count)
    return min(zeros + (tensor.elements - stored if tensor.sparse else 0), tensor.elements)


def count_zeros(
    data: np.ndarray, kind: str, zero_point: int, count: int | None = None
) -> tuple[int, int]:
    """Return how many numbers the bytes of a tensor hold, and how many of them stand for zero.

    Args:
        data: The bytes.
        kind: The type of the numbers.
        zero_point: The number that stands for zero.
        count: How many there are, without what fills up the last byte. Defaults to `None`: all.
    """
    bits = BITS[kind]
    if bits < 8:
        fields = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        values = np.stack(fields, axis=-1).ravel()[:count]
        return values.size, int(np.sum(values == (zero_point & ((1 << bits) - 1))))
    if kind in FLOATS:
        unsigned = data.view(f"<u{bits // 8}")
        without_sign = unsigned & np.array((1 << (bits - 1)) - 1, unsigned.dtype)
        return unsigned.size, int(np.sum(without_sign == 0))
    values = data.view(f"<{'u' if kind.startswith('U') else 'i'}{bits // 8}")
    return values.size, int(np.sum(values == zero_point))


def _users(file: ModelFile, graph: int) -> dict[int, tuple[str, ...]]:
    """Return, by tensor, the names of the outputs of what takes it, changes of form passed."""
    operators = [operator for operator in file.operators() if operator.graph == graph]

    def names(index: int, depth: int) -> list[str]:
        result: list[str] = []
        for operator in operators:
            if index in operator.input_indices:
                result += operator.outputs
                if operator.name in _FORMS and depth:
                    made = operator.output_indices
                    result += [name for output in made for name in names(output, depth - 1)]
        return result

    taken = {index for operator in operators for index in operator.input_indices}
    return {index: tuple(dict.fromkeys(names(index, 3))) for index in taken}
