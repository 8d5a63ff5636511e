"""The constants of a TFLite file one by one: what they are called and what they take."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras_kd.litert.constants import BITS, _is_weight, _zero_point, count_zeros
from keras_kd.litert.model_file import ModelFile

# What only changes the form of a constant: its own consumers are the ones that say whose it is.
_FORMS = ("DEQUANTIZE", "DENSIFY", "QUANTIZE", "CAST", "RESHAPE", "TRANSPOSE")


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
        bytes: Size of its buffer.
    """

    name: str
    users: tuple[str, ...]
    axes: int
    elements: int
    zeros: int | None
    bits: int | None
    bytes: int


def stored_tensors(content: bytes) -> list[StoredTensor]:
    """Return the constants of a file, each buffer once.

    Args:
        content: A TFLite file's bytes.
    """
    file = ModelFile(content)
    found, seen = [], set()
    for graph in file.raw_graphs():
        users = _users(file, graph)
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            data = file.stored(tensor.Buffer())
            if data is None or tensor.Buffer() in seen:
                continue
            seen.add(tensor.Buffer())
            name, kind = file.name_and_kind(tensor)
            shape = [tensor.Shape(k) for k in range(tensor.ShapeLength())]
            elements = math.prod(shape)
            zeros = None
            if _is_weight(tensor, kind):
                stored, zeros = count_zeros(data, kind, _zero_point(tensor))
                zeros += elements - stored if tensor.Sparsity() is not None else 0
                zeros = min(zeros, elements)
            found.append(
                StoredTensor(
                    name=name,
                    users=users.get(i, ()),
                    axes=len(shape),
                    elements=elements,
                    zeros=zeros,
                    bits=BITS.get(kind),
                    bytes=int(data.nbytes),
                )
            )
    return found


def _users(file: ModelFile, graph: Any) -> dict[int, tuple[str, ...]]:
    """Return, by tensor, the names of the outputs of what takes it, changes of form passed."""
    direct: dict[int, list[tuple[str, list[int]]]] = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        outputs = [operator.Outputs(k) for k in range(operator.OutputsLength())]
        for k in range(operator.InputsLength()):
            direct.setdefault(operator.Inputs(k), []).append(
                (file.operator_name(operator)[0], outputs)
            )

    def names(index: int, depth: int) -> list[str]:
        result = []
        for operator_name, outputs in direct.get(index, ()):
            result += [file.name_and_kind(graph.Tensors(output))[0] for output in outputs]
            if operator_name in _FORMS and depth:
                result += [name for output in outputs for name in names(output, depth - 1)]
        return result

    return {index: tuple(dict.fromkeys(names(index, 3))) for index in direct}
