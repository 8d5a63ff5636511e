"""Logits or probabilities: the one rule by which every loss and every measure reads an output.

What the graph says counts first; the values on real data where it does not tell; and above both
stands what the user says by `from_logits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.models.graph import calls_of, graph_of, is_graph, origin_of, output_structure

PROBABILITIES = ("softmax", "sigmoid")

# Layers of Keras whose outputs, before their `activation`, can be any numbers.
_LINEAR = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.Embedding,
    keras.layers.MultiHeadAttention,
)
_SIZE_OF_OPEN_AXES = 4
_MOST_NUMBERS = 2**25
_ROUNDING = 1e-3


def last_activation(model: Any) -> Any:
    """Return what the graph of a model shows about its outputs.

    What follows the last weights (reshaping, averages, clipping, your own functions) is
    computed on numbers of all sizes in place of what the weights give.

    Args:
        model: A Keras model.

    Returns:
        In the structure of the model's outputs: `"softmax"` for numbers from 0 to 1 that sum to
        one along the last axis, `"sigmoid"` for others from 0 to 1, `"linear"` where numbers can
        be negative, `"positive"` for all others; `None` where it cannot be told, as for custom
        layers with weights. `None` for a model without a graph.
    """
    structure = output_structure(model)
    if structure is None:
        return None
    if not is_graph(model):  # its graph is not what is run
        return keras.tree.map_structure(lambda _: None, structure)
    return keras.tree.map_structure(_end_of, structure)


def _end_of(tensor: Any) -> str | None:
    size = int(np.prod([_SIZE_OF_OPEN_AXES if axis is None else axis for axis in tensor.shape[1:]]))
    try:
        # Nothing that the layers assign, such as the state of a generator, is kept.
        with keras.StatelessScope():
            values = _Tail(batch=int(np.clip(2**18 // max(size, 1), 2, 16))).value(tensor, {})
            values = np.asarray(keras.ops.convert_to_numpy(values), "float64")
    except Exception:  # code of any layer or function may run here
        return None
    values = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    values = values[np.isfinite(values).all(axis=-1)]
    if not values.size:
        return None
    if values.min() < -_ROUNDING:
        return "linear"
    if values.max() > 1 + _ROUNDING:
        return "positive"
    return "softmax" if np.allclose(values.sum(-1), 1.0, atol=1e-2) else "sigmoid"


class _UnknownEndError(ValueError):
    """Arbitrary numbers cannot stand for what a layer gives."""


class _Tail:
    """Computes symbolic tensors from arbitrary numbers in place of what layers of weights give.

    Args:
        batch: How many samples, each of another order of magnitude.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._random = np.random.default_rng(0)
        self._values: dict[tuple[int, int], Any] = {}
        self._kept: list[Any] = []

    def value(self, tensor: Any, inputs: Mapping[int, tuple[Any, Any]]) -> Any:
        """Return the numbers of a tensor.

        Args:
            tensor: A symbolic tensor.
            inputs: The tensors that a nested model's inputs stand for, by identity, each with the
                mapping of the model around it.
        """
        key = (id(tensor), id(inputs))
        if key not in self._values:
            self._values[key] = self._compute(tensor, inputs)
        return self._values[key]

    def _compute(self, tensor: Any, inputs: Mapping[int, tuple[Any, Any]]) -> Any:
        if id(tensor) in inputs:
            return self.value(*inputs[id(tensor)])
        history = origin_of(tensor)
        operation, node = history.operation, calls_of(history.operation)[history.node_index]
        if node.is_input:
            return self._arbitrary(tensor)
        if isinstance(operation, keras.Model):
            if not is_graph(operation):
                raise _UnknownEndError
            graph = graph_of(operation)
            given = {
                id(inner): (outer, inputs)
                for inner, outer in zip(graph.inputs, node.input_tensors, strict=True)
            }
            self._kept.append(given)  # its identity must not be used again
            return self.value(keras.tree.flatten(graph.outputs)[history.tensor_index], given)
        layer = operation.layer if _is_distributed(operation) else operation
        if getattr(layer, "weights", None):
            if not _runs_call_of(layer, _LINEAR):
                raise _UnknownEndError
            activation = getattr(layer, "activation", None)
            numbers = self._arbitrary(tensor)
            return numbers if activation is None else activation(numbers)

        def numbers_of(argument: Any) -> Any:
            symbolic = isinstance(argument, keras.KerasTensor)
            return self.value(argument, inputs) if symbolic else argument

        args, kwargs = keras.tree.map_structure(
            numbers_of, (node.arguments.args, node.arguments.kwargs)
        )
        # Not `__call__`, which would forget the layer's losses of its last call.
        return keras.tree.flatten(operation.call(*args, **kwargs))[history.tensor_index]

    def _arbitrary(self, tensor: Any) -> Any:
        sizes = [_SIZE_OF_OPEN_AXES if axis is None else axis for axis in tensor.shape[1:]]
        shape = (self._batch, *sizes)
        if np.prod(shape) > _MOST_NUMBERS:
            raise _UnknownEndError
        magnitudes = np.resize([1.0, 30.0, 0.1, 1000.0], self._batch)
        numbers = self._random.normal(size=shape) * magnitudes.reshape(-1, *[1] * len(sizes))
        return keras.ops.convert_to_tensor(numbers.astype("float32"), dtype=tensor.dtype)


def _is_distributed(operation: Any) -> bool:
    return _runs_call_of(operation, (keras.layers.TimeDistributed,))


def _runs_call_of(layer: Any, classes: tuple[type, ...]) -> bool:
    """Return whether a layer computes as one of Keras's classes, not by code of its own."""
    defining = next((c for c in type(layer).__mro__ if "call" in vars(c)), type(layer))
    return isinstance(layer, classes) and defining.__module__.split(".")[0] == "keras"


def look_like_probabilities(
    values: np.ndarray, *, each_unit: bool = False, step: float = 0.0
) -> bool:
    """Return whether values can be probabilities, where the graph does not tell.

    Args:
        values: An output on real data, `[batch, ..., units]` or `[batch]`.
        each_unit: Whether each unit has a probability of its own, which need not sum to one.
            Defaults to `False`: only where there is one unit.
        step: The step in which an integer file rounds the values. Defaults to `0.0`.

    Returns:
        Whether all of them lie between 0 and 1 and, for several units, every row along the last
        axis sums to one.
    """
    values = np.asarray(values, "float64")
    units = values.shape[-1] if values.ndim > 1 else 1
    rows = values.reshape(-1, units)
    rows = rows[np.isfinite(rows).all(axis=-1)]
    if not rows.size or rows.min() < -_ROUNDING or rows.max() > 1 + _ROUNDING + step:
        return False
    if each_unit or units == 1:
        return True
    return bool(np.allclose(rows.sum(-1), 1.0, rtol=0, atol=1e-2 + units * step / 2))


# All of Keras's losses with a `from_logits`, and the functions for which names stand too.
_CROSSENTROPIES = {
    keras.losses.BinaryCrossentropy: keras.losses.binary_crossentropy,
    keras.losses.BinaryFocalCrossentropy: keras.losses.binary_focal_crossentropy,
    keras.losses.CategoricalCrossentropy: keras.losses.categorical_crossentropy,
    keras.losses.CategoricalFocalCrossentropy: keras.losses.categorical_focal_crossentropy,
    keras.losses.SparseCategoricalCrossentropy: keras.losses.sparse_categorical_crossentropy,
}


def crossentropy_of(loss: Any) -> Any:
    """Return the class of a cross-entropy of Keras, `None` of any other loss.

    Args:
        loss: A loss as in `keras.Model.compile`: a name, a function or a loss object.
    """
    if isinstance(loss, str):
        name = "binarycrossentropy" if loss.lower() == "bce" else loss.lower().replace("_", "")
        return next((kind for kind in _CROSSENTROPIES if kind.__name__.lower() == name), None)
    found = (kind for kind, f in _CROSSENTROPIES.items() if loss is f or type(loss) is kind)
    return next(found, None)


def answers_each_unit(units: int | None, end: str | None, loss: Any = None) -> bool:
    """Return whether each unit of an output answers yes or no, whatever the others answer.

    Args:
        units: Number of its units.
        end: How it ends, as in `last_activation`.
        loss: Its loss on labels, as in `keras.Model.compile`. Defaults to `None`: not known.
    """
    binary = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
    return units == 1 or end == "sigmoid" or crossentropy_of(loss) in binary


def student_loss_for(loss: Any, end: str | None) -> Any:
    """Turn the name or function of a cross-entropy into the loss that fits the student's output.

    Keras reads them as losses on probabilities, and so do we, unless the student is known to end in
    logits.

    Args:
        loss: A loss as in `keras.Model.compile`.
        end: How the student's output ends, as in `last_activation`.

    Raises:
        ValueError: If a loss object's `from_logits` contradicts the student's end.
    """
    if not isinstance(loss, keras.losses.Loss):
        kind = crossentropy_of(loss)
        if kind is None:
            return keras.losses.get(loss) if isinstance(loss, str) else loss
        return kind(from_logits=end == "linear")
    if end is None:
        return loss
    from_logits = loss.get_config().get("from_logits")
    name = type(loss).__name__
    if from_logits is True and end in PROBABILITIES:
        raise ValueError(
            f"The student ends in {end}, but its loss is {name}(from_logits=True): that "
            f"takes the {end} twice. Remove the student's last activation (best for "
            f"distillation), or use loss=keras.losses.{name}(from_logits=False)."
        )
    if from_logits is False and end == "linear":
        raise ValueError(
            f"The student ends in logits, but its loss is {name}(from_logits=False), which needs "
            f"probabilities. Use loss=keras.losses.{name}(from_logits=True)."
        )
    return loss


def check_student_loss(loss: Any, output: Any) -> None:
    """Refuse a loss on probabilities where a first batch shows that the student gives none.

    Args:
        loss: The loss of one output, as in `keras.Model.compile`.
        output: The student's output for a batch.

    Raises:
        ValueError: If it is a cross-entropy on probabilities and an output is negative.
    """
    kind = crossentropy_of(loss)
    if kind is None or (isinstance(loss, kind) and loss.get_config()["from_logits"]):
        return
    name = kind.__name__
    lowest = float(np.min(keras.ops.convert_to_numpy(output), initial=0.0))
    if lowest < -_ROUNDING:
        raise ValueError(
            f"The loss {name} reads probabilities (from_logits=False), but the student gives "
            f"negative outputs, {lowest:.3g} among them. Pass "
            f"loss=keras.losses.{name}(from_logits=True)."
        )
