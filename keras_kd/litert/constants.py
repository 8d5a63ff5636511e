"""The numbers stored in a TFLite file."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

# Bits stored per element. Strings, resources and variants hold no weights.
BITS = {
    "FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16,
    "INT64": 64, "UINT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16, "UINT16": 16,
    "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "INT2": 2,
}  # fmt: skip
FLOATS = ("FLOAT64", "FLOAT32", "FLOAT16", "BFLOAT16")


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


def count_constants(tensors: Iterable[tuple[Any, str, np.ndarray | None]]) -> Constants:
    """Count the numbers in the tensors of a file, each buffer once.

    Args:
        tensors: Flatbuffer tables of the tensors, with their types and their stored bytes, if any.
    """
    elements = zeros = sparse = parameters = 0
    types: Counter[str] = Counter()
    seen: set[int] = set()
    for tensor, kind, data in tensors:
        if data is None or tensor.Buffer() in seen or not _is_weight(tensor, kind):
            continue
        seen.add(tensor.Buffer())
        size = math.prod(tensor.Shape(k) for k in range(tensor.ShapeLength()))
        stored, stored_zeros = count_zeros(data, kind, _zero_point(tensor))
        if tensor.Sparsity() is not None:
            sparse += 1
            stored_zeros += size - stored
        elements += size
        parameters += size if size > 1 else 0
        zeros += min(stored_zeros, size)
        types[kind] += size
    return Constants(elements, zeros, dict(types.most_common()), sparse, parameters)


def _is_weight(tensor: Any, kind: str) -> bool:
    if kind in FLOATS:
        return True
    quantization = tensor.Quantization()
    return kind in BITS and quantization is not None and quantization.ScaleLength() > 0


def _zero_point(tensor: Any) -> int:
    quantization = tensor.Quantization()
    if quantization is None or not quantization.ZeroPointLength():
        return 0
    return int(quantization.ZeroPoint(0))


def count_zeros(data: np.ndarray, kind: str, zero_point: int) -> tuple[int, int]:
    """Return how many numbers the bytes of a tensor hold, and how many of them stand for zero."""
    bits = BITS[kind]
    if bits < 8:
        fields = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        values = np.stack(fields, axis=-1).ravel()
        return values.size, int(np.sum(values == (zero_point & ((1 << bits) - 1))))
    if kind in FLOATS:
        unsigned = data.view(f"<u{bits // 8}")
        without_sign = unsigned & np.array((1 << (bits - 1)) - 1, unsigned.dtype)
        return unsigned.size, int(np.sum(without_sign == 0))
    values = data.view(f"<{'u' if kind.startswith('U') else 'i'}{bits // 8}")
    return values.size, int(np.sum(values == zero_point))
