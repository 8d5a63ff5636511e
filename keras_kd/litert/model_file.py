"""The content of a TFLite file: its graphs, tensors and operators, to read and to edit."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_kd.litert.packing import numbers, pack

IDENTIFIER = b"TFL3"
# Bits stored per element. Strings, resources and variants hold no weights.
BITS = {
    "FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16,
    "INT64": 64, "UINT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16, "UINT16": 16,
    "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "INT2": 2,
}  # fmt: skip
FLOATS = ("FLOAT64", "FLOAT32", "FLOAT16", "BFLOAT16")


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
        data: The bytes of a constant, or `None`.
        buffer: Index of the buffer that holds them.
        sparse: Whether they are stored in a sparse encoding.
        variable: Whether it keeps its numbers from one run to the next.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    data: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    buffer: int = 0
    sparse: bool = False
    variable: bool = False

    @property
    def constant(self) -> bool:
        """Whether its numbers stand in the file."""
        return self.data is not None

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
class Operator:
    """One operator of a graph.

    Attributes:
        name: The builtin operator's name, as `"CONV_2D"`, or a custom operator's own.
        custom: Whether it is a custom operator (TensorFlow's own, "flex", ones included).
        input_indices: Its input tensors, -1 for one which is left out.
        output_indices: Its output tensors.
        outputs: Names of its output tensors.
        output_types: Types of its output tensors, as `"FLOAT32"`.
        graph: Position of its graph in the file; 0 is the one which is run.
        options: Its options as an object of the schema, or `None`.
    """

    name: str
    custom: bool
    input_indices: tuple[int, ...]
    output_indices: tuple[int, ...]
    outputs: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()
    graph: int = 0
    options: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def is_flex(self) -> bool:
        """Whether it needs TensorFlow's kernels (SELECT_TF_OPS) at run time."""
        return self.custom and self.name.startswith("Flex")


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph of a file: the model itself, or the body of a loop or a condition.

    Attributes:
        tensors: Its tensors.
        operators: Its operators, in the order in which they run.
        inputs: Indices of its inputs.
        outputs: Indices of its outputs.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class ModelFile:
    """The content of a TFLite file, opened once, edited in steps and packed once.

    Its tables are checked when it is made: every index is one of the file.

    Args:
        content: The file's bytes.

    Attributes:
        content: The bytes that it was made of.
        model: What they hold as an object of the schema (`ModelT`), which may be changed.
        schema: The module that holds the schema.

    Raises:
        ValueError: If the content is not a complete TFLite file.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.content = content
        try:
            packed = schema.Model.GetRootAs(content, 0)
            _check_extent(packed, len(content))
            self.model: Any = schema.ModelT.InitFromObj(packed)
            _take_in_what_follows(self.model, content)
            _check_indices(self.model, len(content))
        except (
            struct.error, LookupError, TypeError, ValueError, OverflowError, AttributeError
        ) as error:  # fmt: skip
            raise ValueError(f"The content is not a complete TFLite file: {error}.") from None
        self._types = _names(schema.TensorType)
        self._operator_names = _names(schema.BuiltinOperator)

    def packed(self, keep_names: bool = True, share_buffers: bool = True) -> bytes:
        """Return the bytes of the file, in which whatever is equal is stored once.

        Args:
            keep_names: Whether the names of inner tensors are stored. Defaults to `True`.
            share_buffers: Whether equal constants share their bytes. Defaults to `True`.
        """
        return pack(self.model, IDENTIFIER, keep_names, share_buffers)

    def names(self) -> list[list[str]]:
        """Return the names of the tensors of every graph."""
        return [[_text(t.name) for t in graph.tensors or ()] for graph in self.model.subgraphs]

    def set_names(self, names: Any) -> None:
        """Give tensors without a name the one in `names`, a list as `names()` returns it."""
        graphs = self.model.subgraphs
        fits = isinstance(names, list) and [len(graph.tensors or ()) for graph in graphs] == [
            len(graph) if isinstance(graph, list) else -1 for graph in names
        ]
        for graph, given in zip(graphs, names, strict=True) if fits else ():
            for tensor, name in zip(graph.tensors or (), given, strict=True):
                tensor.name = tensor.name or str(name).encode()

    @property
    def has_names(self) -> bool:
        """Whether inner tensors have names; `packed` leaves them out where that is asked for."""
        ends = {*self.graph_inputs(0), *self.graph_outputs(0)}
        inner = [name for i, name in enumerate(self.names()[0]) if i not in ends]
        return any(inner) or not inner

    def graphs(self) -> list[Graph]:
        """Return every graph of the file, the model itself first."""
        return [
            Graph(
                tensors=tuple(self.tensor(g, i) for i in range(len(graph.tensors or ()))),
                operators=tuple(self._graph_operators(g)),
                inputs=tuple(i for i in numbers(graph.inputs) if i >= 0),
                outputs=tuple(i for i in numbers(graph.outputs) if i >= 0),
            )
            for g, graph in enumerate(self.model.subgraphs)
        ]

    def tensor(self, graph: int, index: int) -> Tensor:
        """Return a tensor of a graph."""
        found = self.model.subgraphs[graph].tensors[index]
        shape, signature = numbers(found.shape), numbers(found.shapeSignature)
        scales: tuple[Any, ...] = ()
        zero_points: tuple[Any, ...] = ()
        if (quantization := found.quantization) is not None:
            scales, zero_points = numbers(quantization.scale), numbers(quantization.zeroPoint)
            zero_points = (*zero_points, *(0,) * len(scales))[: len(scales)]
        return Tensor(
            name=_text(found.name),
            kind=self.type_name(found),
            shape=shape,
            signature=signature or shape,
            scales=scales,
            zero_points=zero_points,
            data=self.stored(found.buffer),
            buffer=found.buffer,
            sparse=found.sparsity is not None,
            variable=bool(found.isVariable),
        )

    @property
    def remembers(self) -> bool:
        """Whether operators keep numbers from one run to the next, such as a fused LSTM's state."""
        graphs = self.model.subgraphs
        return any(tensor.isVariable for graph in graphs for tensor in graph.tensors or ())

    def type_name(self, tensor: Any) -> str:
        """Return the type of a tensor of the schema, as `"INT8"`."""
        return self._types.get(tensor.type, str(tensor.type))

    def stored(self, buffer: int) -> np.ndarray | None:
        """Return the bytes stored in the buffer of that index, or `None` if it holds none."""
        data = self.model.buffers[buffer].data if 0 < buffer < len(self.model.buffers) else None
        return None if data is None or not len(data) else np.asarray(data, np.uint8)

    def operators(self) -> list[Operator]:
        """Return every operator of every graph in the file (bodies of loops included)."""
        graphs = range(len(self.model.subgraphs))
        return [operator for graph in graphs for operator in self._graph_operators(graph)]

    def _graph_operators(self, number: int) -> Iterable[Operator]:
        graph = self.model.subgraphs[number]
        for operator in graph.operators or ():
            name, custom = self.operator_name(operator)
            outputs = numbers(operator.outputs)
            made = [graph.tensors[index] for index in outputs]
            yield Operator(
                name=name,
                custom=custom,
                input_indices=numbers(operator.inputs),
                output_indices=outputs,
                outputs=tuple(_text(tensor.name) for tensor in made),
                output_types=tuple(self.type_name(tensor) for tensor in made),
                graph=number,
                options=operator.builtinOptions,
            )

    def operator_name(self, operator: Any) -> tuple[str, bool]:
        """Return the name of an operator of the schema, and whether it is a custom operator."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        # Files older than schema 3a keep the code in the deprecated byte.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = number == self.schema.BuiltinOperator.CUSTOM
        name = _text(code.customCode) if custom else self._operator_names.get(number)
        return name or str(number), custom

    def operator_code(self, name: str, version: int = 1) -> int:
        """Return the index of a builtin operator in the file's table, to which it is added.

        Args:
            name: The operator.
            version: The version that its kernel must at least have. Defaults to `1`.
        """
        number = getattr(self.schema.BuiltinOperator, name)
        for i, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == number:
                code.version = max(code.version, version)
                return i
        added = self.schema.OperatorCodeT(
            builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version
        )
        self.model.operatorCodes.append(added)
        return len(self.model.operatorCodes) - 1

    def add_buffer(self, data: np.ndarray) -> int:
        """Add a buffer, and return its index."""
        self.model.buffers.append(self.schema.BufferT(data=data.view(np.uint8).ravel()))
        return len(self.model.buffers) - 1

    def operator_counts(self) -> dict[str, int]:
        """Return how often each operator occurs, the most frequent first."""
        return dict(Counter(operator.name for operator in self.operators()).most_common())

    def float_operators(self) -> list[Operator]:
        """Return the operators which compute in floating point (conversions do not count)."""
        return [
            operator
            for operator in self.operators()
            if operator.name not in ("QUANTIZE", "DEQUANTIZE", "DENSIFY")
            and any(kind in FLOATS for kind in operator.output_types)
        ]

    def float_inputs_and_outputs(self) -> list[str]:
        """Return the names of the file's inputs and outputs which are floating point."""
        tensors = [self.tensor(0, i) for i in (*self.graph_inputs(0), *self.graph_outputs(0))]
        return [tensor.name for tensor in tensors if tensor.kind in FLOATS]

    def output_operator(
        self, position: int = 0, through: Sequence[str] = ("DEQUANTIZE", "QUANTIZE")
    ) -> Operator | None:
        """Return the operator which computes an output.

        Args:
            position: The output. Defaults to `0`.
            through: Names of operators that are passed over, to what computes their first input.
        """
        wanted = self.graph_outputs(0)[position]
        for operator in reversed(list(self._graph_operators(0))):
            if wanted in operator.output_indices:
                if operator.name not in through:
                    return operator
                wanted = operator.input_indices[0]
        return None

    def tensor_types(self) -> dict[str, int]:
        """Return how many tensors there are of each type, activations and constants together."""
        tensors = (tensor for graph in self.model.subgraphs for tensor in graph.tensors or ())
        return dict(Counter(map(self.type_name, tensors)).most_common())

    def graph_inputs(self, graph: int) -> list[int]:
        """Return the indices of a graph's input tensors."""
        return list(numbers(self.model.subgraphs[graph].inputs))

    def graph_outputs(self, graph: int) -> list[int]:
        """Return the indices of a graph's output tensors."""
        return list(numbers(self.model.subgraphs[graph].outputs))

    def describe_tensor(self, graph: int, index: int) -> dict[str, Any]:
        """Return shape, dtype, scale and zero point of a tensor.

        Args:
            graph: Index of its graph.
            index: Index of the tensor in the graph.

        Returns:
            `shape` (`None` for a size of any value), `dtype` (as NumPy names it), `scale` and
            `zero_point` (`None` where the tensor is not quantized as a whole).
        """
        tensor = self.tensor(graph, index)
        scaled = len(tensor.scales) == 1
        return {
            "shape": [None if size < 0 else size for size in tensor.signature],
            "dtype": tensor.kind.lower(),
            "scale": tensor.scales[0] if scaled else None,
            "zero_point": tensor.zero_points[0] if scaled else None,
        }

    def signature_graphs(self) -> dict[str, int]:
        """Return the index of every signature's graph, in the order of the file."""
        definitions = self.model.signatureDefs or ()
        return {_text(found.signatureKey): found.subgraphIndex for found in definitions}

    def signature(self, key: str | None = None) -> tuple[dict[str, int], dict[str, int]]:
        """Return the tensor index of every named input and output of a signature.

        A file without a signature has none: both are empty.

        Args:
            key: The signature's name. Defaults to `None`: that of the file's first graph.
        """
        for found in self.model.signatureDefs or ():
            if (found.subgraphIndex == 0) if key is None else (_text(found.signatureKey) == key):
                return (
                    {_text(entry.name): entry.tensorIndex for entry in found.inputs or ()},
                    {_text(entry.name): entry.tensorIndex for entry in found.outputs or ()},
                )
        return {}, {}


def _names(enumeration: type) -> dict[int, str]:
    return {v: k for k, v in vars(enumeration).items() if isinstance(v, int)}


def _text(raw: bytes | str | None) -> str:
    return raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw or ""


def _check_extent(packed: Any, size: int) -> None:
    """Refuse a file with more tables than bytes: tables may be shared, but not without bound."""
    graphs = packed.SubgraphsLength()
    if not 0 < graphs <= size:
        raise ValueError("it has no graph" if not graphs else f"a vector has {graphs:,} entries")
    entries = packed.BuffersLength() + packed.OperatorCodesLength()
    for i in range(graphs):
        graph = packed.Subgraphs(i)
        entries += graph.TensorsLength() + graph.OperatorsLength()
        if not 0 <= entries <= size:
            raise ValueError(f"a vector has {entries:,} entries")


def _take_in_what_follows(model: Any, content: bytes | bytearray) -> None:
    """Read what files above 2 GB keep behind the flatbuffer."""
    for buffer in model.buffers or ():
        if buffer.offset > 1 and (buffer.data is None or not len(buffer.data)):
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            if operator.largeCustomOptionsOffset > 1:
                operator.customOptions = np.frombuffer(
                    content,
                    np.uint8,
                    operator.largeCustomOptionsSize,
                    operator.largeCustomOptionsOffset,
                )
                operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def _check_indices(model: Any, size: int) -> None:
    """Refuse indices that lead out of the file, and vectors that together are longer than it."""

    def check(indices: Sequence[int], count: int, least: int = 0) -> None:
        wrong = [index for index in indices if not least <= index < count]
        if wrong:
            raise ValueError(f"index {wrong[0]} of {count}")

    model.buffers, codes = model.buffers or [], len(model.operatorCodes or ())
    entries = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    for graph in model.subgraphs:
        tensors, operators = graph.tensors or (), graph.operators or ()
        check([tensor.buffer for tensor in tensors], max(len(model.buffers), 1))
        check([operator.opcodeIndex for operator in operators], codes)
        for outer, least in ((graph, -1), *((operator, 0) for operator in operators)):
            check(numbers(outer.inputs), len(tensors), -1)
            check(numbers(outer.outputs), len(tensors), least)
            entries += len(numbers(outer.inputs)) + len(numbers(outer.outputs))
        if entries > size:
            raise ValueError(f"its vectors have {entries:,} entries")
    for found in model.signatureDefs or ():
        check([found.subgraphIndex], len(model.subgraphs))
        tensors = model.subgraphs[found.subgraphIndex].tensors or ()
        named = [*(found.inputs or ()), *(found.outputs or ())]
        check([entry.tensorIndex for entry in named], len(tensors))
