"""Weighted means, reduced as Keras reduces its losses."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def weighted_mean(values: Any, sample_weight: Any = None, mask: Any = None) -> Any:
    """Return `sum(weight * value) / number of values`, Keras's `"sum_over_batch_size"`.

    Args:
        values: Tensor `[batch, ...]`.
        sample_weight: Weights of the leading axes of `values`. Defaults to `None`.
        mask: Where false, a value counts neither in the sum nor in the number. Defaults to `None`.

    Returns:
        A scalar; zero where no value counts.

    Raises:
        ValueError: If the weights do not fit the values.
    """
    values = ops.convert_to_tensor(values)
    count = ops.cast(ops.size(values), values.dtype)
    if mask is not None:
        counted = spread(ops.cast(mask, values.dtype), values, "mask") * ops.ones_like(values)
        count = ops.sum(counted)
        # A masked value may be infinite or NaN, which a product with zero would keep.
        values = ops.where(counted > 0, values, ops.zeros_like(values))
    if sample_weight is not None:
        weights = ops.cast(ops.convert_to_tensor(sample_weight), values.dtype)
        values = values * spread(weights, values, "sample_weight")
    return ops.sum(values) / ops.maximum(count, 1)


def widened(tensor: Any) -> Any:
    """Return a tensor in float32, or in float64 where it is."""
    wide = keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return ops.cast(tensor, "float64" if wide else "float32")


def spread(weights: Any, values: Any, name: str) -> Any:
    """Return `weights` with axes of length one appended, up to the rank of `values`.

    Raises:
        ValueError: If the axes of `weights` are not the leading axes of `values`.
    """
    received = tuple(weights.shape)
    weights = _squeezed(weights, values)
    while len(weights.shape) < len(values.shape):
        weights = ops.expand_dims(weights, -1)
    if not fits(weights.shape, values.shape):
        raise ValueError(
            f"`{name}` has shape {received}, which does not fit values of shape "
            f"{tuple(values.shape)}. Pass one weight per sample, or one per leading position."
        )
    return weights


def weights_by_sample(sample_weight: Any, values: Any) -> Any:
    """Return weights that fit `values`: those given, or their mean over all axes but the batch.

    Weights of the pixels of a segmentation, for instance, have another size than a feature map.
    """
    weights = ops.convert_to_tensor(sample_weight)
    weights = _squeezed(ops.cast(weights, values.dtype), values)
    expanded = len(weights.shape) <= len(values.shape) and fits(
        tuple(weights.shape) + (1,) * (len(values.shape) - len(weights.shape)), values.shape
    )
    if expanded or len(weights.shape) < 2:
        return weights
    return ops.mean(weights, axis=tuple(range(1, len(weights.shape))))


def _squeezed(weights: Any, values: Any) -> Any:
    """Return weights without axes of one behind those of the values, as Keras takes them."""
    while len(weights.shape) > len(values.shape) and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    return weights


def fits(weights: Any, values: Any) -> bool:
    """Return whether a tensor of shape `weights` broadcasts to the shape `values`."""
    return len(weights) == len(values) and all(
        w is None or v is None or w in (1, v) for w, v in zip(weights, values, strict=True)
    )
