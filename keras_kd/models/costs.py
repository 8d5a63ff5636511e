"""What a model costs: its parameters and the multiplications of one pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_kd.models.call_shapes import Given, arrays_given
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
        not_counted: Layers of other classes that hold weights, and operations such as
            `keras.ops.conv`: their multiplications are not in `macs`.
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
    layers, and `keras.ops.matmul`, `einsum`, `dot`, `inner` and `tensordot`. Biases, normalization,
    activations and pooling do not count, as usual in the literature.

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
            node,
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


# Operations of `keras.ops` that multiply, but are not counted.
_OTHER_PRODUCTS = (
    "Conv", "ConvTranspose", "Correlate", "DepthwiseConv", "DotProductAttention", "SeparableConv",
    "Vdot",
)  # fmt: skip


def operation_macs(
    node: Any,
    inputs: Sequence[Sequence[int | None]],
    outputs: Sequence[Sequence[int | None]],
    weights: dict[int, Shape],
) -> int | None:
    """Return the multiply-accumulate operations of one call for one example.

    Args:
        node: The call of a layer or an operation of `keras.ops`.
        inputs: Shapes of the symbolic tensors that it is given, batch first.
        outputs: Shapes of its outputs.
        weights: Shape of each of its weights, by the `id` of the variable.

    Returns:
        The number; `None` where a layer holds weights, or an operation multiplies, in a way that is
        not known.

    Raises:
        ValueError: If a size that matters is not known.
    """

    def size(weight: Any) -> int:
        return math.prod(weights[id(weight)])

    operation, given = node.operation, arrays_given(node, inputs)
    inputs = [each.shape for each in given]
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
        kernel = Given("kernel", weights[id(kernel_of(operation))], False)
        return _einsum(operation, operation.equation, [given[0], kernel])
    if isinstance(operation, _ATTENTION):
        return _attention(operation, given, weights)
    if isinstance(operation, (layers.Attention, layers.AdditiveAttention)):
        # A mask beside them is given apart.
        shapes = [each.shape for each in given if each.argument == given[0].argument]
        query, value = (_known(operation, shape[1:]) for shape in shapes[:2])
        # Scores of each query and key, and their sums of values.
        keys = _known(operation, shapes[1][1:2])
        return query * keys + value * _known(operation, shapes[0][1:2])
    if isinstance(operation, layers.Dot):
        axes = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
        return _known(operation, outputs[0][1:]) * _known(operation, [inputs[0][axes]])
    if isinstance(operation, _RECURRENT):
        cell = operation.cell
        return _known(operation, inputs[0][1:-1]) * (
            size(cell.kernel) + size(cell.recurrent_kernel)
        )
    if not isinstance(operation, keras.layers.Layer):
        return _product(operation, given, outputs)
    return 0 if not weights or isinstance(operation, _WITHOUT) else None


def _product(
    operation: Any, given: Sequence[Given], outputs: Sequence[Sequence[int | None]]
) -> int | None:
    """Return the multiplications of an operation of `keras.ops`."""
    name = type(operation).__name__
    if name in _OTHER_PRODUCTS:
        return None
    if name == "Einsum":
        return _einsum(operation, operation.subscripts, given)
    if name not in ("Dot", "Inner", "Matmul", "Tensordot") or len(given) < 2:
        return 0
    first, second = (each.of_one_example for each in given[:2])
    if not first or not second:  # a number
        return 0
    if name == "Matmul":
        return _known(operation, outputs[0][1:]) * _known(operation, first[-1:])
    summed = [first[-1]]
    if name == "Tensordot":
        axes = operation.axes
        if isinstance(axes, int):
            summed = [*first[len(first) - axes :]]
        else:
            axes = [axes[0]] if isinstance(axes[0], int) else axes[0]
            summed = [first[axis] for axis in axes]
    return _known(operation, [*first, *second]) // (_known(operation, summed) or 1)


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


def _einsum(operation: Any, equation: str, given: Sequence[Given]) -> int:
    sizes: dict[Any, int | None] = {}
    batch = set()
    terms = equation.split("->")[0].replace(" ", "").split(",")
    for term, each in zip(terms, given, strict=True):
        before, _, after = term.partition("...")
        spread = len(each.shape) - len(before) - len(after)
        # Axes that stand for `...` are counted from the last.
        axes = [*before, *range(-spread, 0), *after]
        for axis, n in zip(axes, each.shape, strict=True):
            if sizes.get(axis, 1) == 1:
                sizes[axis] = n
        if each.symbolic:
            batch.add(axes[0])
    return _known(operation, [n for axis, n in sizes.items() if axis not in batch])


def _attention(layer: Any, given: Sequence[Given], weights: dict[int, Shape]) -> int:
    named = {each.argument: each.shape for each in given}
    shapes = [each.shape for each in given]
    queries, values = named.get("query", shapes[0]), named.get("value", shapes[1])
    query = _known(layer, queries[1:-1])
    kernels = {name: kernel_of(part) for name, part in attention_projections(layer).items()}
    sizes = {name: math.prod(weights[id(kernel)]) for name, kernel in kernels.items()}
    macs = query * (sizes["query"] + sizes["output"] + sizes.get("gate", 0))
    macs += _known(layer, values[1:-1]) * (sizes["key"] + sizes["value"])
    _, heads, key_dim = weights[id(kernels["query"])]
    value_dim = weights[id(kernels["output"])][1]
    attended = _known(layer, [values[axis] for axis in attention_axes(layer)])
    return macs + heads * query * attended * (key_dim + value_dim)
