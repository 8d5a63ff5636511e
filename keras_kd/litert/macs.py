"""The multiplications of a TFLite file, counted from its operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from keras_kd.litert.model_file import ModelFile, Operator

Shape = tuple[int, ...]
Shapes = Callable[[int, int], Shape]


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulate operations of one run.

    Attributes:
        total: All that were counted.
        by_operator: The same by operator, as `{"CONV_2D": 1200}`.
        not_counted: Operators which may multiply and were not counted, with the reason.
    """

    total: int
    by_operator: dict[str, int]
    not_counted: dict[str, str]


def count_macs(file: ModelFile, shapes: Shapes | None = None) -> Macs:
    """Count the products of weights and features (or of features) in a file.

    Convolutions, fully connected and recurrent operators and matrix products are counted, in loops
    as often as these run; biases, normalization, activations and pooling are not, as in
    `keras_kd.model_cost`.

    Args:
        file: The file.
        shapes: The shape of a tensor, from its graph and its index. Defaults to what the file
            states, in which sizes that are not fixed are 1.

    Returns:
        The `Macs` of one run with these shapes.

    Raises:
        ValueError: If the operators of the file do not fit their tensors.
    """
    try:
        return _Counter(
            file, shapes or (lambda graph, index: file.tensor(graph, index).shape)
        ).run()
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ValueError(
            f"The file is damaged: its operators do not fit their tensors ({error})."
        ) from error


def operator_macs(file: ModelFile, operator: Operator) -> int:
    """Return the multiply-accumulate operations of one operator outside of loops, at batch 1.

    Args:
        file: The file.
        operator: One of its operators.
    """
    formula = _FORMULAS.get(operator.name)
    stored = _shapes_of(operator, lambda graph, index: file.tensor(graph, index).shape)
    return formula(operator, stored) if formula else 0


class _Counter:
    def __init__(self, file: ModelFile, shapes: Shapes) -> None:
        self._file = file
        self._shapes = shapes
        self._graphs: dict[int, list[Operator]] = {}
        for operator in file.operators():
            self._graphs.setdefault(operator.graph, []).append(operator)
        self._totals: dict[str, int] = {}
        self._not_counted: dict[str, str] = {}
        self._open: list[int] = []

    def run(self) -> Macs:
        self._graph(0, 1)
        return Macs(sum(self._totals.values()), self._totals, self._not_counted)

    def _graph(self, graph: int, times: int) -> None:
        if graph in self._open:
            raise ValueError(f"graph {graph} runs inside of itself")
        self._open.append(graph)
        for operator in self._graphs.get(graph, []):
            if operator.name == "WHILE":
                self._loop(operator, times)
            elif operator.name in ("IF", "STABLEHLO_WHILE", "CALL", "STABLEHLO_COMPOSITE"):
                self._not_counted[operator.name] = "which of its graphs runs is not known"
            elif operator.custom:
                self._not_counted[operator.name] = "a custom operator"
            elif operator.name in _FORMULAS:
                macs = _FORMULAS[operator.name](operator, _shapes_of(operator, self._shapes))
                self._totals[operator.name] = self._totals.get(operator.name, 0) + times * macs
            elif operator.name in _UNKNOWN:
                self._not_counted[operator.name] = "not known how it multiplies"
        self._open.pop()

    def _loop(self, operator: Operator, times: int) -> None:
        options = operator.options
        trips = self._trips(operator, options.condSubgraphIndex)
        if trips is None:
            self._not_counted["WHILE"] = "how often it runs is not a constant"
            trips = 0
        self._graph(options.bodySubgraphIndex, times * trips)

    def _trips(self, loop: Operator, condition: int) -> int | None:
        """How often a loop runs whose condition is `counter < limit`, or several of these."""
        limits = []
        arguments = self._file.graph_inputs(condition)
        for operator in self._graphs.get(condition, []):
            if operator.name != "LESS":
                continue
            ends = []
            for index in operator.input_indices:
                value = self._integer(condition, index)
                if value is None and index in arguments:
                    value = self._integer(loop.graph, loop.input_indices[arguments.index(index)])
                ends.append(value)
            start, limit = ends
            if start is not None and limit is not None:
                limits.append(max(limit - start, 0))
        return min(limits) if limits else None

    def _integer(self, graph: int, index: int) -> int | None:
        tensor = self._file.tensor(graph, index)
        if tensor.data is None or tensor.kind not in ("INT32", "INT64"):
            return None
        values = tensor.data.view("<i4" if tensor.kind == "INT32" else "<i8")
        return int(values[0]) if values.size == 1 else None


_Shape = Callable[[str, int], Shape]


def _shapes_of(operator: Operator, shapes: Shapes) -> _Shape:
    """Return a function that gives the shape of an input or output, `(0,)` if it is left out."""

    def shape(side: str, position: int) -> Shape:
        indices = operator.input_indices if side == "in" else operator.output_indices
        if position >= len(indices) or indices[position] < 0:
            return (0,)
        return shapes(operator.graph, indices[position])

    return shape


def _convolution(operator: Operator, shape: _Shape) -> int:
    return math.prod(shape("out", 0)) * math.prod(shape("in", 1)[1:])


def _depthwise(operator: Operator, shape: _Shape) -> int:
    return math.prod(shape("out", 0)) * math.prod(shape("in", 1)[1:3])


def _fully_connected(operator: Operator, shape: _Shape) -> int:
    return math.prod(shape("out", 0)) * shape("in", 1)[-1]


def _transposed(operator: Operator, shape: _Shape) -> int:
    # Every input value meets all weights of its channel, which is the last axis.
    return math.prod(shape("in", 2)) * math.prod(shape("in", 1)[:-1])


def _convolution_3d(operator: Operator, shape: _Shape) -> int:
    return math.prod(shape("out", 0)) * math.prod(shape("in", 1)[:-1])


def _matrix_product(operator: Operator, shape: _Shape) -> int:
    adjoint = operator.options is not None and operator.options.adjX
    return math.prod(shape("out", 0)) * shape("in", 0)[-2 if adjoint else -1]


def _sequence_lstm(operator: Operator, shape: _Shape) -> int:
    # Inputs 1 to 8 are the kernels of the four gates, 16 the projection; one may be left out.
    kernels = [shape("in", i) for i in (*range(1, 9), 16)]
    steps = math.prod(shape("in", 0)[:2])
    return steps * sum(math.prod(kernel) for kernel in kernels if len(kernel) == 2)


def _sequence_rnn(operator: Operator, shape: _Shape) -> int:
    return math.prod(shape("in", 0)[:2]) * sum(math.prod(shape("in", i)) for i in (1, 2))


_FORMULAS: dict[str, Callable[[Operator, _Shape], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D": _convolution_3d,
    "CONV_3D_TRANSPOSE": _transposed,
    "BATCH_MATMUL": _matrix_product,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _sequence_lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _sequence_rnn,
}
_UNKNOWN = (
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN", "SVDF",
    "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL",
)  # fmt: skip


# Where operators keep their weights.
_WEIGHTS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1,
    "CONV_3D_TRANSPOSE": 1, "BATCH_MATMUL": 1, "GATHER": 0, "EMBEDDING_LOOKUP": 1,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 2, "UNIDIRECTIONAL_SEQUENCE_RNN": 1,
}  # fmt: skip


def operator_types(file: ModelFile) -> dict[str, dict[str, int]]:
    """Return how often each operator occurs with each type of numbers.

    The type is that of the output; that of the weights is added where it differs, as in
    `"FLOAT32 (INT8 weights)"`.
    """
    made = {(o.graph, index): o for o in file.operators() for index in o.output_indices}
    found: dict[str, dict[str, int]] = {}
    for operator in file.operators():
        kind = operator.output_types[0] if operator.output_types else "?"
        weights = _weight_type(file, made, operator)
        if weights not in (None, kind):
            kind = f"{kind} ({weights} weights)"
        counts = found.setdefault(operator.name, {})
        counts[kind] = counts.get(kind, 0) + 1
    return found


def _weight_type(
    file: ModelFile, made: dict[tuple[int, int], Operator], operator: Operator
) -> str | None:
    position = _WEIGHTS.get(operator.name, len(operator.input_indices))
    if position >= len(operator.input_indices):
        return None
    index = operator.input_indices[position]
    # float16 and sparse weights are stored in front of an operator which unfolds them.
    while (source := made.get((operator.graph, index))) is not None:
        if source.name not in ("DEQUANTIZE", "DENSIFY"):
            return None
        index = source.input_indices[0]
    tensor = file.tensor(operator.graph, index)
    return tensor.kind if tensor.data is not None else None
