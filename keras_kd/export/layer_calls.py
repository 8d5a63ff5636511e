"""Layers that are traced otherwise than Keras computes them: same numbers, better operators.

What Keras composes for every backend becomes many TFLite operators, or such as have no integer
kernel. A rule here replaces the call of one layer for the duration of a trace. It holds only for a
layer whose `call` is Keras's own; where a rule returns `None`, Keras's call stays.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.calls import op_type, source_of
from keras_kd.models.graph import flat_layers

Call = Callable[..., tf.Tensor]


@contextlib.contextmanager
def calls_for_tflite(model: keras.Model) -> Iterator[None]:
    """Replace the calls of a model's layers by those that TFLite computes better.

    Args:
        model: The model; it is left as it was found.
    """
    changed = []
    try:
        for layer in flat_layers(model):
            call = _call_for_tflite(layer)
            if call is not None and "call" not in vars(layer):
                object.__setattr__(layer, "call", _by_keyword_too(layer, call))
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


def _call_for_tflite(layer: Any) -> Call | None:
    for kind, rule in _RULES.items():
        if isinstance(layer, kind) and type(layer).call is kind.call:
            return rule(layer)
    return None


def _by_keyword_too(layer: Any, call: Call) -> Call:
    """Return a call whose tensor may be given by the name that it has in Keras's own call."""
    first = next(iter(inspect.signature(layer.call).parameters))

    @tf.autograph.experimental.do_not_convert
    def named(*args: Any, **kwargs: Any) -> tf.Tensor:
        args = args or (kwargs.pop(first),)
        return call(*args, **kwargs)

    return named


def _up_sampling(layer: Any) -> Call | None:
    """Return a call made of RESIZE_NEAREST_NEIGHBOR, where Keras repeats along each axis."""
    size = (layer.size,) if isinstance(layer.size, int) else tuple(layer.size)
    if getattr(layer, "interpolation", "nearest") != "nearest" or not _is_channels_last(layer):
        return None
    if not all(_nearest_repeats(factor) for factor in size):
        return None

    def call(x: tf.Tensor) -> tf.Tensor:
        sizes = list(x.shape[1:])
        if len(size) == 2:
            return _resize(x, size)
        if None in sizes:
            return type(layer).call(layer, x)
        shape = [-1, *(n * factor for n, factor in zip(sizes, size, strict=False)), sizes[-1]]
        if len(size) == 1:
            x = _resize(tf.reshape(x, [-1, sizes[0], 1, sizes[1]]), (size[0], 1))
            return tf.reshape(x, shape)
        # Images of (depth, height * ...) first, then of (height, width).
        depth, height, width, channels = sizes
        x = _resize(tf.reshape(x, [-1, depth, height, width * channels]), size[:2])
        x = tf.reshape(x, [-1, shape[1] * shape[2], width, channels])
        return tf.reshape(_resize(x, (1, size[2])), shape)

    return call


def _resize(x: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
    shape = x.shape if None not in x.shape[1:3] else tf.shape(x)
    target = [shape[1] * factors[0], shape[2] * factors[1]]
    # The kernel for microcontrollers knows no half pixel centers.
    return tf.raw_ops.ResizeNearestNeighbor(
        images=x, size=target, align_corners=False, half_pixel_centers=False
    )


def _nearest_repeats(factor: int) -> bool:
    """Whether the operator's arithmetic in float32 repeats every position so often."""
    positions = np.arange(factor * 4096)
    nearest = np.floor(positions.astype(np.float32) * np.float32(1 / factor))
    return bool((nearest == positions // factor).all())


def _dilated(layer: Any) -> Call | None:
    """Return a call made of one dilated convolution.

    TensorFlow splits it into SpaceToBatchND, a convolution and BatchToSpaceND, which the converter
    joins again only where every size is known.
    """
    dilation = _two(layer.dilation_rate)
    if dilation == (1, 1) or _two(layer.strides) != (1, 1) or not _is_channels_last(layer):
        return None
    flat = len(layer.dilation_rate) == 1

    def call(x: tf.Tensor) -> tf.Tensor:
        padding = layer.padding.upper()
        if padding == "CAUSAL":
            x = tf.pad(
                x, [[0, 0], [layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0], [0, 0]]
            )
            padding = "VALID"
        arguments = {"strides": [1, 1, 1, 1], "padding": padding}
        dilations = [1, *dilation, 1]
        x = tf.expand_dims(x, 1) if flat else x

        def two_dimensional(kernel: Any) -> tf.Tensor:
            kernel = tf.convert_to_tensor(kernel)
            return tf.expand_dims(kernel, 0) if flat else kernel

        if hasattr(layer, "depthwise_kernel") or hasattr(layer, "depth_multiplier"):
            separable = hasattr(layer, "pointwise_kernel")
            kernel = two_dimensional(layer.depthwise_kernel if separable else layer.kernel)
            x = tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=kernel, dilations=dilations, **arguments
            )
            if separable:
                pointwise = two_dimensional(layer.pointwise_kernel)
                x = tf.raw_ops.Conv2D(input=x, filter=pointwise, **arguments)
        else:
            kernel = two_dimensional(layer.kernel)
            x = tf.raw_ops.Conv2D(input=x, filter=kernel, dilations=dilations, **arguments)
        if layer.use_bias:
            x = tf.nn.bias_add(x, layer.bias)
        x = tf.squeeze(x, [1]) if flat else x
        return x if layer.activation is None else layer.activation(x)

    return call


def _two(sizes: Sequence[int]) -> tuple[int, ...]:
    return (1, *sizes) if len(sizes) == 1 else tuple(sizes)


def _is_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _layer_normalization(layer: Any) -> Call | None:
    """Return a call without NEG and SQUARED_DIFFERENCE, which lack integer kernels."""
    if layer.rms_scaling:
        return None

    def call(x: tf.Tensor) -> tf.Tensor:
        axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        normalized = {axis % x.shape.rank for axis in axes}
        shape = [size if i in normalized else 1 for i, size in enumerate(x.shape)]
        return _scale_and_shift(_normalize(x, axes, layer.epsilon), layer, shape)

    return call


def _einsum_dense(layer: Any) -> Call | None:
    """Return a call that adds the bias before the outputs get their axes.

    With three axes and more before the inputs, as in attention over windows of an image, the
    converter does not join them, and the kernel stays float.
    """
    left, _, rest = layer.equation.replace(" ", "").partition(",")
    kernel, _, out = rest.partition("->")
    taken = "".join(letter for letter in kernel if letter in left)
    made = kernel[len(taken) :]
    kept = left[: len(left) - len(taken)]
    bias = layer.bias
    fits = left == kept + taken and kernel == taken + made and out == kept + made
    if not fits or "." in left or len(kept) < 3 or len(made) < 2 or bias is None:
        return None
    if tuple(bias.shape) != tuple(layer.kernel.shape[len(taken) :]):
        return None

    def call(x: tf.Tensor, training: Any = None) -> tf.Tensor:
        sizes = list(layer.kernel.shape)
        inputs, outputs = (math.prod(part) for part in (sizes[: len(taken)], sizes[len(taken) :]))
        before = [-1, *_sizes(x)[1 : len(kept)]]
        product = tf.matmul(
            tf.reshape(x, [*before, inputs]), tf.reshape(layer.kernel, [inputs, outputs])
        )
        outputs = tf.reshape(
            product + tf.reshape(layer.bias, [-1]), [*before, *sizes[len(taken) :]]
        )
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def _group_normalization(layer: Any) -> Call | None:
    def call(x: tf.Tensor) -> tf.Tensor:
        axis, sizes = layer.axis % x.shape.rank, _sizes(x)
        groups = [layer.groups, sizes[axis] // layer.groups]
        grouped = tf.reshape(x, [-1, *sizes[1:axis], *groups, *sizes[axis + 1 :]])
        axes = [i for i in range(1, grouped.shape.rank) if i != axis]
        normalized = tf.reshape(_normalize(grouped, axes, layer.epsilon), _shape_of(x))
        shape = [size if i == axis else 1 for i, size in enumerate(x.shape)]
        return _scale_and_shift(normalized, layer, shape)

    return call


def _rms_normalization(layer: Any) -> Call:
    """Return a call without SQUARE, which lacks integer kernels."""

    def call(x: tf.Tensor) -> tf.Tensor:
        power = tf.reduce_mean(x * x, layer.axis, keepdims=True)
        return x * tf.math.rsqrt(power + layer.epsilon) * layer.scale

    return call


def _softmax(layer: Any) -> Call | None:
    """Return a call made of SOFTMAX, where Keras composes one over several axes of EXP and LOG."""
    if not isinstance(layer.axis, (tuple, list)) or len(layer.axis) < 2:
        return None

    def call(x: tf.Tensor, mask: Any = None) -> tf.Tensor:
        rank, count = x.shape.rank, len(layer.axis)
        last = sorted(axis % rank for axis in layer.axis) == list(range(rank - count, rank))
        sizes = list(x.shape[1:])
        if mask is not None or not last or None in sizes or count == rank:
            return type(layer).call(layer, x, mask)
        flat = tf.reshape(x, [-1, *sizes[:-count], math.prod(sizes[-count:])])
        return tf.reshape(tf.nn.softmax(flat), [-1, *sizes])

    return call


def _unit_normalization(layer: Any) -> Call:
    """Return a call without SQUARE, which lacks integer kernels."""

    def call(x: tf.Tensor) -> tf.Tensor:
        total = tf.reduce_sum(x * x, layer.axis, keepdims=True)
        return x * tf.math.rsqrt(tf.maximum(total, 1e-24))  # Keras's epsilon, squared

    return call


def _sizes(x: tf.Tensor) -> list[Any]:
    """Return the size of each axis, as a tensor where only the run tells it."""
    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]


def _shape_of(x: tf.Tensor) -> Any:
    sizes = [-1, *x.shape[1:]]
    return tf.shape(x) if None in sizes else sizes


def _normalize(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    centered = x - _mean(x, axes)
    variance = tf.reduce_mean(centered * centered, axes, keepdims=True)
    return centered * tf.math.rsqrt(variance + epsilon)


def _mean(x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Return the mean over axes; of integers not one in integers of the same step, too coarse."""
    count = math.prod(x.shape[axis] or 0 for axis in axes)
    given = source_of(x)
    while op_type(given) == "Reshape":
        given = source_of(given.op.inputs[0])
    if count and (op_type(given) or "").startswith("FakeQuant"):
        return tf.reduce_sum(x, axes, keepdims=True) * (1.0 / count)
    return tf.reduce_mean(x, axes, keepdims=True)


def _scale_and_shift(x: tf.Tensor, layer: Any, shape: Sequence[int]) -> tf.Tensor:
    if layer.scale:
        x = x * tf.reshape(layer.gamma, shape)
    if layer.center:
        x = x + tf.reshape(layer.beta, shape)
    return x


_RULES: dict[Any, Callable[[Any], Call | None]] = {
    keras.layers.Conv1D: _dilated,
    keras.layers.Conv2D: _dilated,
    keras.layers.DepthwiseConv1D: _dilated,
    keras.layers.DepthwiseConv2D: _dilated,
    keras.layers.EinsumDense: _einsum_dense,
    keras.layers.GroupNormalization: _group_normalization,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.RMSNormalization: _rms_normalization,
    keras.layers.SeparableConv1D: _dilated,
    keras.layers.SeparableConv2D: _dilated,
    keras.layers.Softmax: _softmax,
    keras.layers.UnitNormalization: _unit_normalization,
    keras.layers.UpSampling1D: _up_sampling,
    keras.layers.UpSampling2D: _up_sampling,
    keras.layers.UpSampling3D: _up_sampling,
}
