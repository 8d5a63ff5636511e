"""The tensors and operators of a TFLite file by index, as a planner of memory needs them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras_kd.litert.constants import BITS
from keras_kd.litert.model_file import ModelFile


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        name: Its name in the file.
        kind: Its type, as `"INT8"`.
        shape: Its shape; 1 where `signature` leaves the size open.
        signature: Its shape with -1 where any size is accepted.
        scales: Scales of its quantization: none, one, or one for each channel.
        zero_points: Zero points, as many as scales.
        constant: Whether its numbers stand in the file.
        sparse: Whether they are stored in a sparse encoding.
        variable: Whether it keeps its numbers from one run to the next.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    constant: bool
    sparse: bool
    variable: bool

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes its numbers take in memory; 0 for types without a fixed size."""
        return (self.elements * BITS.get(self.kind, 0) + 7) // 8

    @property
    def open_dimensions(self) -> tuple[int, ...]:
        """Positions in its shape where any size is accepted."""
        return tuple(i for i, size in enumerate(self.signature) if size < 0)


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        name: The builtin operator's name, as `"CONV_2D"`, or a custom operator's own.
        custom: Whether it is a custom operator.
        inputs: Indices of its input tensors; those left out are absent.
        outputs: Indices of its output tensors.
    """

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph of a file: the model itself, or the body of a loop or a condition.

    Attributes:
        tensors: Its tensors.
        nodes: Its operators, in the order in which they run.
        inputs: Indices of its inputs.
        outputs: Indices of its outputs.
    """

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graphs(file: ModelFile) -> list[Graph]:
    """Return every graph of a file, the model itself first."""
    return [_graph(file, raw) for raw in file.raw_graphs()]


def _graph(file: ModelFile, raw: Any) -> Graph:
    return Graph(
        tensors=tuple(_tensor(file, raw.Tensors(i)) for i in range(raw.TensorsLength())),
        nodes=tuple(_node(file, raw.Operators(i)) for i in range(raw.OperatorsLength())),
        inputs=_present(raw.Inputs(i) for i in range(raw.InputsLength())),
        outputs=_present(raw.Outputs(i) for i in range(raw.OutputsLength())),
    )


def _present(indices: Any) -> tuple[int, ...]:
    return tuple(index for index in indices if index >= 0)


def _node(file: ModelFile, raw: Any) -> Node:
    name, custom = file.operator_name(raw)
    return Node(
        name=name,
        custom=custom,
        inputs=_present(raw.Inputs(i) for i in range(raw.InputsLength())),
        outputs=_present(raw.Outputs(i) for i in range(raw.OutputsLength())),
    )


def _tensor(file: ModelFile, raw: Any) -> Tensor:
    shape = tuple(raw.Shape(i) for i in range(raw.ShapeLength()))
    signature = tuple(raw.ShapeSignature(i) for i in range(raw.ShapeSignatureLength()))
    quantization = raw.Quantization()
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    if quantization is not None:
        count = quantization.ScaleLength()
        scales = tuple(float(quantization.Scale(i)) for i in range(count))
        known = quantization.ZeroPointLength()
        zero_points = tuple(
            int(quantization.ZeroPoint(i)) if i < known else 0 for i in range(count)
        )
    name, kind = file.name_and_kind(raw)
    return Tensor(
        name=name,
        kind=kind,
        shape=shape,
        signature=signature or shape,
        scales=scales,
        zero_points=zero_points,
        constant=file.stored(raw.Buffer()) is not None,
        sparse=raw.Sparsity() is not None,
        variable=bool(raw.IsVariable()),
    )
