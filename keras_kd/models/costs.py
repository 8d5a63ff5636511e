"""What a model costs: its parameters and the multiplications of one pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_kd.models.graph import (
    DEPTHWISE,
    TRANSPOSED,
    attention_axes,
    attention_projections,
    check_graph,
    graph_of,
    is_graph,
    kernel_of,
    ordered_nodes,
)

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one layer.

    Attributes:
        name: Its name; `"backbone/block1"` for a layer inside a nested model.
        class_name: Its class.
        parameters: Number of its weights, those that are not trained included.
        macs: Multiply-accumulate operations of one pass over one example, all calls together.
    """

    name: str
    class_name: str
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """The cost of a model.

    Attributes:
        parameters: Number of its weights; shared ones count once.
        macs: Multiply-accumulate operations of one pass over one example.
        layers: The cost of every layer with weights or multiplications.
        not_counted: Layers of other classes that hold weights: their multiplications are not in
            `macs`.
    """

    parameters: int
    macs: int
    layers: tuple[LayerCost, ...]
    not_counted: tuple[str, ...]

    @property
    def flops(self) -> int:
        """Floating point operations: two for each multiply-accumulate."""
        return 2 * self.macs


def model_cost(model: keras.Model) -> ModelCost:
    """Count the parameters and multiplications of a functional or sequential model.

    Counts the products of kernels and features: dense, convolutional, recurrent and attention
    layers, and `keras.ops.matmul` and `einsum`. Biases, normalization, activations and pooling do
    not count, as usual in the literature.

    Args:
        model: A built model. Nested models are opened.

    Returns:
        A `ModelCost`.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is a subclassed model, or a size other than the batch is not known.

    Example:

    ```python
    cost = keras_kd.model_cost(keras.applications.MobileNetV2(weights=None))
    print(cost.macs)  # 300774272
    ```
    """
    check_graph(model, "`model_cost`")
    found: dict[int, list[Any]] = {}
    not_counted: list[str] = []
    _count(graph_of(model), "", found, not_counted)
    costs = tuple(LayerCost(*entry) for entry in found.values() if entry[2] or entry[3])
    return ModelCost(
        model.count_params(), sum(cost.macs for cost in costs), costs, tuple(not_counted)
    )


def _count(graph: Any, prefix: str, found: dict[int, list[Any]], not_counted: list[str]) -> None:
    for node in ordered_nodes(graph):
        operation = node.operation
        path = prefix + operation.name
        if isinstance(operation, keras.Model) and is_graph(operation):
            _count(graph_of(operation), f"{path}/", found, not_counted)
            continue
        weights = {id(w): tuple(w.shape) for w in getattr(operation, "weights", [])}
        macs = operation_macs(
            operation,
            [tuple(tensor.shape) for tensor in node.arguments.keras_tensors],
            [tuple(tensor.shape) for tensor in node.outputs],
            weights,
        )
        if macs is None and path not in not_counted:
            not_counted.append(path)
        parameters = sum(math.prod(shape) for shape in weights.values())
        entry = found.setdefault(id(operation), [path, type(operation).__name__, parameters, 0])
        entry[3] += macs or 0


_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_RECURRENT = (layers.SimpleRNN, layers.GRU, layers.LSTM)
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
_WITHOUT = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.Embedding,
)


def operation_macs(
    operation: Any,
    inputs: Sequence[Sequence[int | None]],
    outputs: Sequence[Sequence[int | None]],
    weights: dict[int, Shape],
) -> int | None:
    """Return the multiply-accumulate operations of one call for one example.

    Args:
        operation: A layer or an operation of `keras.ops`.
        inputs: Shapes of its inputs, batch first.
        outputs: Shapes of its outputs.
        weights: Shape of each of its weights, by the `id` of the variable.

    Returns:
        The number; `None` where a layer holds weights whose use is not known.

    Raises:
        ValueError: If a size that matters is not known.
    """

    def size(weight: Any) -> int:
        return math.prod(weights[id(weight)])

    if isinstance(operation, layers.Dense):
        return _known(operation, outputs[0][1:-1]) * size(kernel_of(operation))
    if isinstance(operation, (*_CONVOLUTIONS, *DEPTHWISE)):
        return _positions(operation, outputs[0]) * size(kernel_of(operation))
    if isinstance(operation, TRANSPOSED):
        return _positions(operation, inputs[0]) * size(operation.kernel)
    if isinstance(operation, _SEPARABLE):
        kernels = size(operation.depthwise_kernel) + size(operation.pointwise_kernel)
        return _positions(operation, outputs[0]) * kernels
    if isinstance(operation, layers.EinsumDense):
        left, kernel = operation.equation.split("->")[0].replace(" ", "").split(",")
        return _einsum(operation, (left, kernel), (inputs[0], weights[id(kernel_of(operation))]))
    if isinstance(operation, _ATTENTION):
        return _attention(operation, inputs, weights)
    if isinstance(operation, (layers.Attention, layers.AdditiveAttention)):
        query, value = (_known(operation, shape[1:]) for shape in inputs[:2])
        # Scores of each query and key, and their sums of values.
        keys = _known(operation, inputs[1][1:2])
        return query * keys + value * _known(operation, inputs[0][1:2])
    if isinstance(operation, layers.Dot):
        axes = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
        return _known(operation, outputs[0][1:]) * _known(operation, [inputs[0][axes]])
    if isinstance(operation, _RECURRENT):
        cell = operation.cell
        return _known(operation, inputs[0][1:-1]) * (
            size(cell.kernel) + size(cell.recurrent_kernel)
        )
    if not isinstance(operation, keras.layers.Layer):
        name = type(operation).__name__
        if name == "Matmul":
            return _known(operation, outputs[0][1:]) * _known(operation, inputs[0][-1:])
        if name == "Einsum" and "." not in operation.subscripts:
            letters = operation.subscripts.replace(" ", "").split("->")[0].split(",")
            return _einsum(operation, letters, inputs)
        return 0
    return 0 if not weights or isinstance(operation, _WITHOUT) else None


def _positions(layer: Any, shape: Sequence[int | None]) -> int:
    return _known(layer, shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


def _known(operation: Any, sizes: Sequence[int | None]) -> int:
    if any(n is None for n in sizes):
        raise ValueError(
            f"The multiplications of '{operation.name}' depend on a size that is not known (None) "
            "before a batch comes. Build the model with fixed sizes, such as "
            "keras.Input((224, 224, 3)), to count them."
        )
    return math.prod(n for n in sizes if n is not None)


def _einsum(operation: Any, letters: Sequence[str], shapes: Sequence[Any]) -> int:
    sizes: dict[str, int | None] = {}
    rest: list[int | None] = []
    for term, shape in zip(letters, shapes, strict=True):
        shape = list(shape)
        if "..." in term:
            before, after = term.split("...")
            stop = len(shape) - len(after)
            rest = rest or shape[len(before) : stop]
            shape[len(before) : stop] = []
            term = before + after
        for letter, n in zip(term, shape, strict=True):
            sizes[letter] = n
    batch = None if letters[0].startswith("...") else letters[0][0]
    counted = [n for letter, n in sizes.items() if letter != batch]
    return _known(operation, [*counted, *(rest if batch is not None else rest[1:])])


def _attention(
    layer: Any, inputs: Sequence[Sequence[int | None]], weights: dict[int, Shape]
) -> int:
    query = _known(layer, inputs[0][1:-1])
    value = _known(layer, inputs[1][1:-1])
    kernels = {name: kernel_of(part) for name, part in attention_projections(layer).items()}
    sizes = {name: math.prod(weights[id(kernel)]) for name, kernel in kernels.items()}
    macs = query * (sizes["query"] + sizes["output"] + sizes.get("gate", 0))
    macs += value * (sizes["key"] + sizes["value"])
    _, heads, key_dim = weights[id(kernels["query"])]
    value_dim = weights[id(kernels["output"])][1]
    attended = _known(layer, [inputs[1][axis] for axis in attention_axes(layer)])
    return macs + heads * query * attended * (key_dim + value_dim)
