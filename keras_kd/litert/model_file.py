"""What a TFLite file says about itself: its operators, tensors and constants."""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_kd.litert.constants import FLOATS, Constants, count_constants

IDENTIFIER = b"TFL3"


def _names(enumeration: type) -> dict[int, str]:
    return {v: k for k, v in vars(enumeration).items() if isinstance(v, int)}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a graph.

    Attributes:
        name: The builtin operator's name, as `"CONV_2D"`, or a custom operator's own.
        custom: Whether it is a custom operator (TensorFlow's own, "flex", ones included).
        inputs: Names of its input tensors.
        outputs: Names of its output tensors.
        output_types: Types of its output tensors, as `"FLOAT32"`.
        graph: Position of its graph in the file; 0 is the one which is run.
        input_indices: Its input tensors in that graph, -1 for one which is left out.
        output_indices: Its output tensors in that graph.
        options: The flatbuffer table of its options, or `None`.
    """

    name: str
    custom: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_types: tuple[str, ...]
    graph: int = 0
    input_indices: tuple[int, ...] = ()
    output_indices: tuple[int, ...] = ()
    options: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def is_flex(self) -> bool:
        """Whether it needs TensorFlow's kernels (SELECT_TF_OPS) at run time."""
        return self.custom and self.name.startswith("Flex")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
        name: Its name.
        kind: Its type, as `"FLOAT32"`.
        shape: Its shape as the file has it, 1 for a size which is not fixed.
        data: The bytes of a constant, or `None`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: np.ndarray | None = dataclasses.field(repr=False)


def _check(model: Any, size: int) -> None:
    """Refuse tables whose vectors are longer than the file, or whose indices lead out of it."""

    def length(count: int, bytes_each: int = 4) -> int:
        if not 0 <= count * bytes_each <= size:
            raise ValueError(f"a vector has {count:,} entries")
        return count

    def index(number: int, count: int, least: int = 0) -> int:
        if not least <= number < count:
            raise ValueError(f"index {number} of {count}")
        return number

    buffers = length(model.BuffersLength())
    total = 0
    for i in range(buffers):
        buffer = model.Buffers(i)
        total += length(buffer.DataLength(), 1)
        if buffer.DataLength():
            buffer.DataAsNumpy()
        elif buffer.Offset() > 1:
            length(buffer.Offset() + buffer.Size(), 1)
    length(total, 1)
    codes, graphs = length(model.OperatorCodesLength()), length(model.SubgraphsLength())
    if not graphs:
        raise ValueError("it has no graph")
    for i in range(codes):
        code = model.OperatorCodes(i)
        code.BuiltinCode(), code.DeprecatedBuiltinCode(), code.CustomCode()
    entries = 0
    tensors = []
    for g in range(graphs):
        graph = model.Subgraphs(g)
        tensors.append(length(graph.TensorsLength()))
        for i in range(tensors[g]):
            tensor = graph.Tensors(i)
            tensor.Name(), tensor.Type(), tensor.Sparsity(), tensor.IsVariable()
            index(tensor.Buffer(), max(buffers, 1))
            for count, get in (
                (tensor.ShapeLength(), tensor.Shape),
                (tensor.ShapeSignatureLength(), tensor.ShapeSignature),
            ):
                entries += length(count)
                for k in range(length(count, 4)):
                    get(k)
            quantization = tensor.Quantization()
            if quantization is not None:
                entries += length(quantization.ScaleLength())
                entries += length(quantization.ZeroPointLength(), 8)
                quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()
        ends = [(graph.InputsLength(), graph.Inputs), (graph.OutputsLength(), graph.Outputs)]
        for i in range(length(graph.OperatorsLength())):
            operator = graph.Operators(i)
            index(operator.OpcodeIndex(), codes)
            operator.BuiltinOptions()
            for k in range(length(operator.OutputsLength())):
                index(operator.Outputs(k), tensors[g])
            ends.append((operator.InputsLength(), operator.Inputs))
        for count, get in ends:
            entries += length(count)
            length(entries, 1)  # tables may share vectors, but not without bound
            for k in range(count):
                index(get(k), tensors[g], -1)
    for i in range(length(model.SignatureDefsLength())):
        definition = model.SignatureDefs(i)
        count = tensors[index(definition.SubgraphIndex(), graphs)]
        definition.SignatureKey()
        ends = [
            (definition.InputsLength(), definition.Inputs),
            (definition.OutputsLength(), definition.Outputs),
        ]
        for entries, get in ends:
            for k in range(length(entries)):
                get(k).Name()
                index(get(k).TensorIndex(), count)


class ModelFile:
    """The graph and constants in the content of a TFLite file.

    Its tables are checked when it is made: no vector is longer than the file, and every index is
    one of the file.

    Args:
        content: The file's bytes.

    Raises:
        ValueError: If the content is no whole TFLite file.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._content = content
        try:
            self._model = schema.Model.GetRootAs(content, 0)
            _check(self._model, len(content))
        except (struct.error, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"The content is no whole TFLite file: {error}.") from None
        self._types = _names(schema.TensorType)
        self._operator_names = _names(schema.BuiltinOperator)
        self._custom = schema.BuiltinOperator.CUSTOM

    def _graphs(self) -> Iterator[Any]:
        return (self._model.Subgraphs(i) for i in range(self._model.SubgraphsLength()))

    @staticmethod
    def _text(raw: bytes | None) -> str:
        return raw.decode("utf-8", errors="replace") if raw else ""

    def _describe(self, graph: Any, index: int) -> tuple[str, str]:
        return self.name_and_kind(graph.Tensors(index))

    def operators(self) -> list[Operator]:
        """Return every operator of every graph in the file (bodies of loops included)."""
        found = []
        for number, graph in enumerate(self._graphs()):
            for i in range(graph.OperatorsLength()):
                operator = graph.Operators(i)
                name, custom = self.operator_name(operator)
                inputs = [operator.Inputs(k) for k in range(operator.InputsLength())]
                outputs = [operator.Outputs(k) for k in range(operator.OutputsLength())]
                described = [self._describe(graph, k) for k in outputs]
                found.append(
                    Operator(
                        name=name,
                        custom=custom,
                        inputs=tuple(self._describe(graph, k)[0] for k in inputs if k >= 0),
                        outputs=tuple(tensor for tensor, _ in described),
                        output_types=tuple(kind for _, kind in described),
                        graph=number,
                        input_indices=tuple(inputs),
                        output_indices=tuple(outputs),
                        options=operator.BuiltinOptions(),
                    )
                )
        return found

    def raw_graphs(self) -> list[Any]:
        """Return the flatbuffer's own objects for the file's graphs, the model itself first."""
        return list(self._graphs())

    def name_and_kind(self, tensor: Any) -> tuple[str, str]:
        """Return the name and the type of a tensor of a raw graph."""
        return self._text(tensor.Name()), self._types.get(tensor.Type(), str(tensor.Type()))

    def stored(self, buffer: int) -> np.ndarray | None:
        """Return the bytes stored in the buffer of that index, or `None` if it holds none."""
        return self._buffer(buffer)

    def operator_name(self, operator: Any) -> tuple[str, bool]:
        """Return the name of an operator of a raw graph, and whether it is a custom operator."""
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        # Files older than schema 3a keep the code in the deprecated byte.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = number == self._custom
        name = self._text(code.CustomCode()) if custom else self._operator_names.get(number)
        return name or str(number), custom

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
        graph = self._model.Subgraphs(0)
        ends = [graph.Inputs(i) for i in range(graph.InputsLength())]
        ends += [graph.Outputs(i) for i in range(graph.OutputsLength())]
        described = [self._describe(graph, index) for index in ends]
        return [name for name, kind in described if kind in FLOATS]

    def output_operator(
        self, position: int = 0, through: Sequence[str] = ("DEQUANTIZE", "QUANTIZE")
    ) -> Operator | None:
        """Return the operator which computes an output.

        Args:
            position: The output. Defaults to `0`.
            through: Names of operators that are passed over, to what computes their first input.
        """
        wanted = self._model.Subgraphs(0).Outputs(position)
        for operator in reversed([found for found in self.operators() if found.graph == 0]):
            if wanted in operator.output_indices:
                if operator.name not in through:
                    return operator
                wanted = operator.input_indices[0]
        return None

    def tensor_types(self) -> dict[str, int]:
        """Return how many tensors there are of each type, activations and constants together."""
        kinds: Counter[str] = Counter()
        for graph in self._graphs():
            kinds.update(self._describe(graph, i)[1] for i in range(graph.TensorsLength()))
        return dict(kinds.most_common())

    def constants(self) -> Constants:
        """Count the numbers stored in the file, each buffer once."""
        return count_constants(
            (tensor, self._types.get(tensor.Type(), ""), self._buffer(tensor.Buffer()))
            for graph in self._graphs()
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength()))
        )

    def _buffer(self, index: int) -> np.ndarray | None:
        if not 0 < index < self._model.BuffersLength():
            return None
        buffer = self._model.Buffers(index)
        if buffer.DataLength():
            return buffer.DataAsNumpy()
        if buffer.Offset() > 1:  # files above 2 GB keep their buffers behind the flatbuffer
            return np.frombuffer(
                self._content, np.uint8, count=buffer.Size(), offset=buffer.Offset()
            )
        return None

    def tensor(self, graph: int, index: int) -> Tensor:
        """Return a tensor of a graph."""
        tensor = self._model.Subgraphs(graph).Tensors(index)
        name, kind = self._describe(self._model.Subgraphs(graph), index)
        shape = tuple(tensor.Shape(k) for k in range(tensor.ShapeLength()))
        return Tensor(name, kind, shape, self._buffer(tensor.Buffer()))

    def graph_inputs(self, graph: int) -> list[int]:
        """Return the indices of a graph's input tensors."""
        found = self._model.Subgraphs(graph)
        return [found.Inputs(k) for k in range(found.InputsLength())]

    def graph_outputs(self, graph: int) -> list[int]:
        """Return the indices of a graph's output tensors."""
        found = self._model.Subgraphs(graph)
        return [found.Outputs(k) for k in range(found.OutputsLength())]

    def describe_tensor(self, graph: int, index: int) -> dict[str, Any]:
        """Return shape, dtype, scale and zero point of a tensor.

        Args:
            graph: Index of its graph.
            index: Index of the tensor in the graph.

        Returns:
            `shape` (`None` for a size of any value), `dtype` (as NumPy names it), `scale` and
            `zero_point` (`None` where the tensor is not quantized as a whole).
        """
        tensor = self._model.Subgraphs(graph).Tensors(index)
        sizes = [tensor.ShapeSignature(k) for k in range(tensor.ShapeSignatureLength())]
        sizes = sizes or [tensor.Shape(k) for k in range(tensor.ShapeLength())]
        quantization = tensor.Quantization()
        scaled = quantization is not None and quantization.ScaleLength() == 1
        return {
            "shape": [None if size < 0 else int(size) for size in sizes],
            "dtype": self._types[tensor.Type()].lower(),
            "scale": float(quantization.Scale(0)) if scaled else None,
            "zero_point": int(quantization.ZeroPoint(0)) if scaled else None,
        }

    def signature_graphs(self) -> dict[str, int]:
        """Return the index of every signature's graph, in the order of the file."""
        definitions = [
            self._model.SignatureDefs(i) for i in range(self._model.SignatureDefsLength())
        ]
        return {self._text(d.SignatureKey()): d.SubgraphIndex() for d in definitions}

    def signature(self, key: str | None = None) -> tuple[dict[str, int], dict[str, int]]:
        """Return the tensor index of every named input and output of a signature.

        A file without a signature has none: both are empty.

        Args:
            key: The signature's name. Defaults to `None`: that of the file's first graph.
        """
        for i in range(self._model.SignatureDefsLength()):
            definition = self._model.SignatureDefs(i)
            wanted = definition.SubgraphIndex() == 0
            if key is not None:
                wanted = self._text(definition.SignatureKey()) == key
            if not wanted:
                continue
            inputs = [definition.Inputs(k) for k in range(definition.InputsLength())]
            outputs = [definition.Outputs(k) for k in range(definition.OutputsLength())]
            return (
                {self._text(entry.Name()): entry.TensorIndex() for entry in inputs},
                {self._text(entry.Name()): entry.TensorIndex() for entry in outputs},
            )
        return {}, {}
