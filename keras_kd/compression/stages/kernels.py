"""The weights of a Keras 3 model that can be pruned, and the matrices that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.graph import kernel_axes, sublayers
from keras_kd.models.layer_choice import LayerChoice
from keras_kd.models.layer_plan import Reason
from keras_kd.models.layers import leaf_layers
from keras_kd.models.tfmot import attributes_of_kernels

# What TF-MOT would prune if it knew these classes of Keras 3. Attention is built from EinsumDense.
_KEYS_OF_KERAS_3 = {
    "EinsumDense": ["kernel"],
    "Conv1DTranspose": ["kernel"],
    "ConvLSTMCell": ["kernel", "recurrent_kernel"],
}


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """A kernel, and what its layer does along its axes.

    Attributes:
        variable: The variable.
        input_axes: The axes of the inputs that are multiplied and summed; `None` where rows are
            looked up and nothing is summed, as in an `Embedding`.
        output_axes: The axes of the outputs. All other axes are positions, such as the height and
            width of a convolution.
    """

    variable: keras.Variable
    input_axes: tuple[int, ...] | None
    output_axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return tuple(int(n) for n in self.variable.shape)

    @property
    def size(self) -> int:
        """The number of weights."""
        return int(np.prod(self.shape))

    def to_matrix(self, values: tf.Tensor, by_position: bool = False) -> tf.Tensor:
        """Return values of the kernel's shape as a matrix, inputs by outputs.

        Args:
            values: A tensor of the kernel's shape.
            by_position: Whether the positions are columns beside those of the outputs, so that a
                column holds inputs of one position only. Defaults to `False`: they are rows.
        """
        rows, columns = self._axes(by_position)
        count = int(np.prod([self.shape[axis] for axis in rows]))
        return tf.reshape(tf.transpose(values, rows + columns), [count, -1])

    def from_matrix(self, matrix: tf.Tensor, by_position: bool = False) -> tf.Tensor:
        """Return what `to_matrix` returned in the kernel's shape again."""
        rows, columns = self._axes(by_position)
        order = rows + columns
        values = tf.reshape(matrix, [self.shape[axis] for axis in order])
        return tf.transpose(values, np.argsort(order))

    def _axes(self, by_position: bool) -> tuple[list[int], list[int]]:
        inputs, outputs = list(self.input_axes or ()), list(self.output_axes)
        positions = [axis for axis in range(len(self.shape)) if axis not in inputs + outputs]
        return (inputs, positions + outputs) if by_position else (positions + inputs, outputs)


def prunable_weights(
    model: keras.Model, choice: LayerChoice | None = None
) -> tuple[dict[str, list[PrunableWeight]], dict[str, str]]:
    """Find the weights of a Keras 3 model that TF-MOT prunes in layers of the same class.

    Args:
        model: Any built Keras 3 model.
        choice: The layers to take into account. Defaults to `None`: all.

    Returns:
        The weights to prune by the path of their layer, and the reason by path for the layers with
        weights that are not pruned. A kernel that several layers share stands under the first.
    """
    keys = {**attributes_of_kernels(), **_KEYS_OF_KERAS_3}
    kernels: dict[str, list[PrunableWeight]] = {}
    skipped: dict[str, str] = {}
    owners: dict[int, str] = {}
    for path, layer in leaf_layers(model):
        if not layer.weights:
            continue
        found = list(_kernels_of(layer, keys))
        own = [w for w in found if owners.setdefault(id(w.variable), path) == path]
        reason = choice.reason_to_spare(path, layer) if found and choice else None
        if reason is None:
            reason = _reason_to_skip(layer, found, own, owners, keys)
        if reason is None:  # a part of a layer may be frozen
            kernels[path] = [weight for weight in own if weight.variable.trainable]
        else:
            skipped[path] = reason
    return kernels, skipped


def _reason_to_skip(
    layer: Any,
    found: list[PrunableWeight],
    own: list[PrunableWeight],
    owners: dict[int, str],
    keys: dict[str, list[str]],
) -> str | None:
    if found and not own:
        return f"its kernel is that of '{owners[id(found[0].variable)]}'"
    if own and not any(weight.variable.trainable for weight in own):
        return Reason("it is not trainable", "set `layer.trainable = True`")
    if own:
        return None
    class_name = type(layer).__name__
    if _keys_of(layer, keys):
        return Reason(
            f"its kernel is not a float variable of its own (LoRA, or {class_name} quantized)",
            "take the layer as it was before `enable_lora` or `quantize`",
        )
    if _keys_of(layer, keys) is not None:
        return f"TF-MOT does not prune {class_name}"
    return Reason(
        f"{class_name} holds no kernel that TF-MOT knows of",
        "make it of layers of Keras, such as Dense, whose kernels are found inside it",
    )


def _keys_of(layer: Any, keys: dict[str, list[str]]) -> list[str] | None:
    """Return the attributes of a layer of Keras that hold kernels, or `None` if it is unknown."""
    for base in type(layer).__mro__:
        if base.__name__ in keys and base.__module__.startswith("keras."):
            return keys[base.__name__]
    return None


def _kernels_of(layer: Any, keys: dict[str, list[str]]) -> Iterator[PrunableWeight]:
    names = _keys_of(layer, keys)
    if names is None:
        for child in sublayers(layer):
            yield from _kernels_of(child, keys)
        return
    if not layer.built:  # a layer that another one holds, but never calls
        return
    for name in names:
        *parents, attribute = name.split(".")
        owner = layer
        for parent in parents:
            owner = getattr(owner, parent)
        kernel = getattr(owner, attribute)
        # Of a layer with LoRA this is a sum, and of a quantized layer an integer.
        if isinstance(kernel, keras.Variable) and "float" in str(kernel.dtype):
            yield PrunableWeight(kernel, *kernel_axes(owner, len(kernel.shape)))
