"""Adaptive average pooling of feature maps, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask, zero_masked
from keras_kd.losses.shared.weighting import spread, widened


def adaptive_average_pool(x: Any, sides: Sequence[Any]) -> Any:
    """Average a map over as many bins an axis as asked for.

    Bin `j` of `m` on a side of `n` reaches from `floor(j n / m)` to `ceil((j + 1) n / m)`: where
    `m` does not divide `n`, bins overlap, as in the authors' code of the losses that pool.

    Args:
        x: Feature map `[batch, side_1, ..., channels]`.
        sides: The number of bins on each side, numbers or scalar tensors.

    Returns:
        Tensor `[batch, sides..., channels]`.

    Raises:
        ValueError: If the number of sides is not that of the map.
    """
    if len(sides) != len(x.shape) - 2:
        raise ValueError(
            f"A map of shape {tuple(x.shape)} has {len(x.shape) - 2} sides, but "
            f"`sides` is {tuple(sides)}."
        )
    for axis, bins in enumerate(sides, start=1):
        if x.shape[axis] is not None and x.shape[axis] == bins:
            continue
        weights = ops.cast(_bin_weights(ops.shape(x)[axis], bins), x.dtype)
        static = bins if isinstance(bins, int) else None
        shape = [*x.shape[:axis], static, *x.shape[axis + 1 :]]
        x = ops.moveaxis(ops.tensordot(x, weights, axes=[[axis], [0]]), -1, axis)
        x.set_shape(shape)
    return x


def pool_to_smaller(first: Any, second: Any) -> tuple[Any, Any]:
    """Pool the larger of two maps to the size of the smaller, side by side.

    Masked positions do not count, and masks are pooled along.

    Raises:
        ValueError: If the maps differ in their number of sides.
    """
    if len(first.shape) != len(second.shape):
        raise ValueError(
            "Feature maps can be pooled to one size only if they have as many axes, but the shapes "
            f"are {tuple(first.shape)} and {tuple(second.shape)}. Name layers before or after "
            "pooling on both sides."
        )
    sides = [
        min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)
        for a, b in zip(ops.shape(first)[1:-1], ops.shape(second)[1:-1], strict=True)
    ]
    return _pooled(first, sides), _pooled(second, sides)


def _pooled(feature: Any, sides: Sequence[Any]) -> Any:
    if tuple(feature.shape[1:-1]) == tuple(sides):
        return feature
    mask = get_keras_mask(feature)
    feature = widened(feature)
    if mask is None:
        return adaptive_average_pool(feature, sides)
    counted = spread(ops.cast(mask, feature.dtype), feature, "mask")
    counted = adaptive_average_pool(counted * ops.ones_like(feature[..., :1]), sides)
    pooled = adaptive_average_pool(zero_masked(feature, mask), sides)
    pooled = pooled / ops.where(counted > 0, counted, ops.ones_like(counted))
    set_keras_mask(pooled, counted[..., 0] > 0)
    return pooled


def _bin_weights(side: Any, bins: Any) -> Any:
    """Return the matrix `[side, bins]` of which column `j` averages over bin `j`."""
    j = ops.arange(bins, dtype="int32")
    start = j * side // bins
    end = -(-(j + 1) * side // bins)
    i = ops.expand_dims(ops.arange(side, dtype="int32"), -1)
    inside = ops.cast(ops.logical_and(i >= start, i < end), "float64")
    return inside / ops.cast(end - start, "float64")
