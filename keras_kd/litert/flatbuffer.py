"""What a TFLite file says about itself: its operators, tensors and constants."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"

# Bits stored per element. Strings, resources and variants hold no weights.
_BITS = {
    "FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16,
    "INT64": 64, "UINT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16, "UINT16": 16,
    "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "INT2": 2,
}  # fmt: skip
_FLOATS = ("FLOAT64", "FLOAT32", "FLOAT16", "BFLOAT16")


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
    """

    name: str
    custom: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_types: tuple[str, ...]

    @property
    def is_flex(self) -> bool:
        """Whether it needs TensorFlow's kernels (SELECT_TF_OPS) at run time."""
        return self.custom and self.name.startswith("Flex")


@dataclasses.dataclass(frozen=True)
class Constants:
    """The numbers stored in a file: weights, biases and embedding tables.

    Shapes, axes, indices and other integer arguments of operators are not counted.

    Attributes:
        elements: How many numbers the dense tensors hold.
        zeros: How many of them stand for zero (those a sparse encoding leaves out included).
        types: Elements per type, as `{"INT8": 1200, "INT32": 30}`.
        sparse_tensors: How many tensors are stored in a sparse encoding.
    """

    elements: int
    zeros: int
    types: dict[str, int]
    sparse_tensors: int

    @property
    def sparsity(self) -> float:
        """Share of zeros, between 0 and 1."""
        return self.zeros / self.elements if self.elements else 0.0


class ModelFile:
    """The graph and constants in the content of a TFLite file.

    The content must be a valid TFLite flatbuffer: `keras_kd.litert.runtime.check_file` tells.

    Args:
        content: The file's bytes.
    """

    def __init__(self, content: bytes | bytearray) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._content = content
        self._model = schema.Model.GetRootAs(content, 0)
        self._types = _names(schema.TensorType)
        self._operator_names = _names(schema.BuiltinOperator)
        self._custom = schema.BuiltinOperator.CUSTOM

    def _graphs(self) -> Iterator[Any]:
        return (self._model.Subgraphs(i) for i in range(self._model.SubgraphsLength()))

    @staticmethod
    def _text(raw: bytes | None) -> str:
        return raw.decode("utf-8", errors="replace") if raw else ""

    def _describe(self, graph: Any, index: int) -> tuple[str, str]:
        tensor = graph.Tensors(index)
        return self._text(tensor.Name()), self._types.get(tensor.Type(), str(tensor.Type()))

    def operators(self) -> list[Operator]:
        """Return every operator of every graph in the file (bodies of loops included)."""
        found = []
        for graph in self._graphs():
            for i in range(graph.OperatorsLength()):
                operator = graph.Operators(i)
                code = self._model.OperatorCodes(operator.OpcodeIndex())
                # Files older than schema 3a keep the code in the deprecated byte.
                number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
                custom = number == self._custom
                name = self._text(code.CustomCode()) if custom else self._operator_names[number]
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
                    )
                )
        return found

    def operator_counts(self) -> dict[str, int]:
        """Return how often each operator occurs, the most frequent first."""
        return dict(Counter(operator.name for operator in self.operators()).most_common())

    def float_operators(self) -> list[Operator]:
        """Return the operators which compute in floating point (conversions do not count)."""
        return [
            operator
            for operator in self.operators()
            if operator.name not in ("QUANTIZE", "DEQUANTIZE", "DENSIFY")
            and any(kind in _FLOATS for kind in operator.output_types)
        ]

    def float_inputs_and_outputs(self) -> list[str]:
        """Return the names of the file's inputs and outputs which are floating point."""
        graph = self._model.Subgraphs(0)
        ends = [graph.Inputs(i) for i in range(graph.InputsLength())]
        ends += [graph.Outputs(i) for i in range(graph.OutputsLength())]
        described = [self._describe(graph, index) for index in ends]
        return [name for name, kind in described if kind in _FLOATS]

    def output_operator(self, position: int = 0) -> str | None:
        """Return the name of the operator which computes an output (before dequantization)."""
        graph = self._model.Subgraphs(0)
        wanted = graph.Outputs(position)
        for i in reversed(range(graph.OperatorsLength())):
            operator = graph.Operators(i)
            if wanted in [operator.Outputs(k) for k in range(operator.OutputsLength())]:
                code = self._model.OperatorCodes(operator.OpcodeIndex())
                number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
                name = self._operator_names.get(number)
                if name not in ("DEQUANTIZE", "QUANTIZE"):
                    return name
                wanted = operator.Inputs(0)
        return None

    def tensor_types(self) -> dict[str, int]:
        """Return how many tensors there are of each type, activations and constants together."""
        kinds: Counter[str] = Counter()
        for graph in self._graphs():
            kinds.update(self._describe(graph, i)[1] for i in range(graph.TensorsLength()))
        return dict(kinds.most_common())

    def constants(self) -> Constants:
        """Count the numbers stored in the file, each buffer once."""
        elements = zeros = sparse = 0
        types: Counter[str] = Counter()
        seen: set[int] = set()
        for graph in self._graphs():
            for i in range(graph.TensorsLength()):
                tensor = graph.Tensors(i)
                kind = self._describe(graph, i)[1]
                data = self._buffer(tensor.Buffer())
                if data is None or tensor.Buffer() in seen or not self._is_weight(tensor, kind):
                    continue
                seen.add(tensor.Buffer())
                size = math.prod(tensor.Shape(k) for k in range(tensor.ShapeLength()))
                stored, stored_zeros = self._count(data, kind, self._zero_point(tensor))
                if tensor.Sparsity() is not None:
                    sparse += 1
                    stored_zeros += size - stored
                elements += size
                zeros += min(stored_zeros, size)
                types[kind] += size
        return Constants(elements, zeros, dict(types.most_common()), sparse)

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

    @staticmethod
    def _is_weight(tensor: Any, kind: str) -> bool:
        if kind in _FLOATS:
            return True
        quantization = tensor.Quantization()
        return kind in _BITS and quantization is not None and quantization.ScaleLength() > 0

    @staticmethod
    def _zero_point(tensor: Any) -> int:
        quantization = tensor.Quantization()
        if quantization is None or not quantization.ZeroPointLength():
            return 0
        return int(quantization.ZeroPoint(0))

    @staticmethod
    def _count(data: np.ndarray, kind: str, zero_point: int) -> tuple[int, int]:
        bits = _BITS[kind]
        if bits < 8:
            fields = [(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
            values = np.stack(fields, axis=-1).ravel()
            return values.size, int(np.sum(values == (zero_point & ((1 << bits) - 1))))
        if kind in _FLOATS:
            unsigned = data.view(f"<u{bits // 8}")
            without_sign = unsigned & np.array((1 << (bits - 1)) - 1, unsigned.dtype)
            return unsigned.size, int(np.sum(without_sign == 0))
        values = data.view(f"<{'u' if kind.startswith('U') else 'i'}{bits // 8}")
        return values.size, int(np.sum(values == zero_point))

    def signature(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the tensor index of every named input and output of the first signature.

        A file without a signature has none: both are empty.
        """
        for i in range(self._model.SignatureDefsLength()):
            definition = self._model.SignatureDefs(i)
            if definition.SubgraphIndex() != 0:
                continue
            inputs = [definition.Inputs(k) for k in range(definition.InputsLength())]
            outputs = [definition.Outputs(k) for k in range(definition.OutputsLength())]
            return (
                {self._text(entry.Name()): entry.TensorIndex() for entry in inputs},
                {self._text(entry.Name()): entry.TensorIndex() for entry in outputs},
            )
        return {}, {}


def order_inputs_and_outputs(
    content: bytes, inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """Give a file's inputs and outputs the order of the model which it was made from.

    The converter sorts them by name, and runtimes address them by position. Only the order of the
    indices in the graph's lists is changed; the file keeps its length and everything else.

    Args:
        content: A TFLite file's bytes.
        inputs: The signature's input names in the wanted order.
        outputs: The signature's output names in the wanted order.

    Returns:
        The changed bytes, or `content` itself if the file has no signature with these names.
    """
    changed = bytearray(content)
    file = ModelFile(changed)
    named_inputs, named_outputs = file.signature()
    graph = file._model.Subgraphs(0)
    for names, named, vector in (
        (inputs, named_inputs, graph.InputsAsNumpy()),
        (outputs, named_outputs, graph.OutputsAsNumpy()),
    ):
        if set(names) != set(named):
            return content
        order = [named[name] for name in names]
        if sorted(order) != sorted(vector.tolist()):  # one tensor under two names, or none
            return content
        vector[:] = order
    return bytes(changed)
