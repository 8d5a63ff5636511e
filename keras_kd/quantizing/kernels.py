"""The kernels of a student that have few bits, and what rounds them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.litert.constants import LEAST_WEIGHTS
from keras_kd.models.graph import DEPTHWISE, kernel_axes, kernel_of
from keras_kd.models.kept import Kept, groups_of, zeros_of
from keras_kd.models.layers import paths_above
from keras_kd.models.recurrent import CELLS
from keras_kd.models.tfmot import import_tfmot

_layers = keras.layers

# Layers that multiply with a kernel in one operator of the file.
KERNEL_LAYERS = (
    _layers.Dense, _layers.EinsumDense,
    _layers.Conv1D, _layers.Conv2D, _layers.Conv3D,
    _layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose,
    _layers.DepthwiseConv1D, _layers.DepthwiseConv2D,
    _layers.SeparableConv1D, _layers.SeparableConv2D,
)  # fmt: skip
_FOUR = (
    _layers.Dense, _layers.EinsumDense, _layers.Conv1D, _layers.Conv2D, _layers.Embedding,
)  # fmt: skip
SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)


@dataclasses.dataclass(frozen=True)
class QuantizedKernel:
    """A kernel of few bits.

    Attributes:
        path: The path of its layer.
        name: `"kernel"`, `"depthwise_kernel"`, `"recurrent_kernel"`, `"embeddings"`, ...
        variable: The variable.
        channels: The axes whose every position has a scale of its own; empty for one scale.
        bits: Its bits.
        kept: What earlier stages left in it that stays.
    """

    path: str
    name: str
    variable: keras.Variable
    channels: tuple[int, ...]
    bits: int
    kept: Kept = dataclasses.field(default_factory=Kept)

    def to_columns(self, values: tf.Tensor) -> tf.Tensor:
        """Return values of the kernel's shape as a matrix with one column per scale."""
        count = int(np.prod([values.shape[axis] for axis in self.channels], dtype=int))
        return tf.reshape(tf.transpose(values, self._order), [-1, count])

    def from_columns(self, columns: tf.Tensor) -> tf.Tensor:
        """Return what `to_columns` returned in the kernel's shape."""
        shape = [int(self.variable.shape[axis]) for axis in self._order]
        return tf.transpose(tf.reshape(columns, shape), np.argsort(self._order))

    @property
    def _order(self) -> list[int]:
        axes = range(len(self.variable.shape))
        return [axis for axis in axes if axis not in self.channels] + list(self.channels)


def quantizable_kernels(
    operations: Mapping[str, Any],
    bits: Callable[[str, Any], int | None],
    pruned: bool = False,
    clustered: Mapping[str, str] | None = None,
) -> list[QuantizedKernel]:
    """Find the kernels that have few bits in a file.

    Args:
        operations: The layers of a model by path, those inside others too.
        bits: The bits of a layer's kernel; `None` where it stays float.
        pruned: Whether zeros stay zero. Defaults to `False`.
        clustered: `"kernel"` or `"channel"` by the path of a layer whose values stay shared.
            Defaults to `None`: none.

    Returns:
        The kernels; one that several layers share stands under the first.
    """
    found: list[QuantizedKernel] = []
    seen: set[int] = set()
    known = clustered or {}
    for path, layer in operations.items():
        for name, variable, channels in _kernels_of(layer):
            chosen = bits(path, layer)
            if chosen is None or id(variable) in seen or "float" not in str(variable.dtype):
                continue
            seen.add(id(variable))
            shared = next((known[p] for p in paths_above(path) if p in known), None)
            if name == "embeddings" and chosen == 4:
                channels = (0,)  # a file has a scale for each of its rows
            if name == "depthwise_kernel" or isinstance(layer, DEPTHWISE):
                shared = None  # TF-MOT does not cluster it
            found.append(
                QuantizedKernel(
                    path,
                    name,
                    variable,
                    () if shared == "kernel" else channels,
                    chosen,
                    Kept(
                        zeros_of(variable) if pruned else None,
                        None if shared is None else groups_of(variable, shared == "channel"),
                    ),
                )
            )
    return found


def _kernels_of(layer: Any) -> list[tuple[str, Any, tuple[int, ...]]]:
    if not getattr(layer, "built", False):
        return []
    if isinstance(layer, SEPARABLE):
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        rank = len(depthwise.shape)
        return [
            ("depthwise_kernel", depthwise, (rank - 2, rank - 1)),
            ("pointwise_kernel", pointwise, (rank - 1,)),
        ]
    if isinstance(layer, DEPTHWISE):
        rank = len(layer.kernel.shape)
        return [("kernel", layer.kernel, (rank - 2, rank - 1))]
    if isinstance(layer, KERNEL_LAYERS):
        kernel = kernel_of(layer)
        return [("kernel", kernel, kernel_axes(layer, len(kernel.shape))[1])]
    if isinstance(layer, _layers.Embedding):
        return [("embeddings", kernel_of(layer), ())]
    if isinstance(layer, CELLS):
        return [
            ("kernel", layer.kernel, (1,)),
            ("recurrent_kernel", layer.recurrent_kernel, (1,)),
        ]
    return []


def takes_4_bits(layer: Any) -> bool:
    """Whether an `"int4"` file holds the kernel of a layer in 4 bits."""
    if not isinstance(layer, _FOUR) or isinstance(layer, (*DEPTHWISE, *SEPARABLE)):
        return False
    return math.prod(kernel_of(layer).shape) >= LEAST_WEIGHTS


def default_weight_quantizer(bits: int) -> Any:
    """Return TF-MOT's quantizer of a kernel: symmetric, a range per column, that of its values."""
    quantizers = import_tfmot().quantization.keras.quantizers
    return quantizers.LastValueQuantizer(
        num_bits=bits, per_axis=True, symmetric=True, narrow_range=True
    )


class KernelRounding:
    """Rounds the kernels of a student by TF-MOT's quantizers.

    Args:
        kernels: The kernels.
        make_quantizer: Returns a quantizer for a number of bits. Defaults to `None`: TF-MOT's
            `LastValueQuantizer`.
    """

    def __init__(
        self,
        kernels: list[QuantizedKernel],
        make_quantizer: Callable[[int], Any] | None = None,
    ) -> None:
        self.kernels = kernels
        make = make_quantizer or default_weight_quantizer
        self._parts = []
        for kernel in kernels:
            quantizer = make(kernel.bits)
            shape = kernel.to_columns(tf.zeros(kernel.variable.shape)).shape
            weights = quantizer.build(shape, "kernel", _Variables())
            self._parts.append((kernel, quantizer, weights))

    def rounded(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """Return every kernel's variable with its rounded values; gradients pass through."""
        results = []
        for kernel, quantizer, weights in self._parts:
            values = tf.cast(kernel.kept(kernel.variable), tf.float32)
            columns = quantizer(kernel.to_columns(values), True, weights)
            results.append((kernel.variable, kernel.from_columns(columns)))
        return results

    def bake(self) -> None:
        """Write the rounded values into the kernels."""
        for variable, values in self.rounded():
            variable.assign(values)


class _Variables:
    """What a quantizer of TF-MOT makes its variables with: plain ones, which no file holds."""

    def add_weight(
        self, name: str, shape: Any = (), initializer: Any = None, trainable: bool = False
    ) -> tf.Variable:
        shape = [] if shape is None else shape
        value = initializer(shape) if callable(initializer) else tf.zeros(shape)
        return tf.Variable(
            tf.cast(value, tf.float32),
            trainable=trainable,
            name=name,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
