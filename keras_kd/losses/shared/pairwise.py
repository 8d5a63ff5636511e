"""Products, distances and angles between the samples of a batch."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_kd.losses.shared.norms import l2_normalize


def gram(x: Any) -> Any:
    """Return the inner products `[batch, batch]` of vectors `[batch, values]`."""
    return ops.matmul(x, ops.transpose(x))


def cosine_similarities(x: Any, floor: float = 1e-12, offset: float = 0.0) -> Any:
    """Return the products `[batch, batch]` of `x / (max(|x|, floor) + offset)`."""
    return gram(l2_normalize(x, floor=floor, offset=offset))


def distances(x: Any) -> Any:
    """Return the Euclidean distances `[batch, batch]` of vectors `[batch, values]`.

    Off the diagonal a squared distance is at least `1e-12`; the diagonal is zero. Use float64: the
    distance of near vectors is the small difference of large products.
    """
    centered = x - ops.mean(x, axis=0, keepdims=True)
    products = gram(centered)
    squares = ops.diagonal(products)
    squared = ops.expand_dims(squares, 0) + ops.expand_dims(squares, 1) - 2.0 * products
    same = ops.eye(ops.shape(x)[0], dtype="bool")
    roots = ops.sqrt(ops.maximum(squared, 1e-12))
    return ops.where(same, ops.zeros_like(roots), roots)


def angles(x: Any) -> Any:
    """Return the cosines of the angles at every vertex, `[vertex, batch, batch]`.

    Entry `(k, i, j)` belongs to the angle between `x_i - x_k` and `x_j - x_k`; it is zero where
    `i` or `j` equals `k`.
    """
    directions = l2_normalize(ops.expand_dims(x, 0) - ops.expand_dims(x, 1))
    return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))


def huber(difference: Any) -> Any:
    """Return `d^2 / 2` where `|d| < 1`, and `|d| - 1/2` elsewhere."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
