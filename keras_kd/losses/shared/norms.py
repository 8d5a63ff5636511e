"""Euclidean norms whose gradients stay finite at zero."""

from __future__ import annotations

from typing import Any

from keras import ops


def norm(x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    """Return the Euclidean norm along `axis`; its gradient at a zero vector is zero."""
    return square_root(ops.sum(ops.square(x), axis=axis, keepdims=keepdims))


def square_root(squares: Any) -> Any:
    """Return the square root; its gradient at zero is zero."""
    zero = ops.equal(squares, 0)
    root = ops.sqrt(ops.where(zero, ops.ones_like(squares), squares))
    return ops.where(zero, ops.zeros_like(root), root)


def l2_normalize(x: Any, axis: Any = -1, floor: float = 1e-12, offset: float = 0.0) -> Any:
    """Return `x / (max(|x|, floor) + offset)`.

    A zero vector stays zero, and its gradient is zero: the definition's would be `1 / floor`.

    Args:
        x: Tensor.
        axis: Axis or axes of the vectors. Defaults to `-1`.
        floor: The least norm divided by. Defaults to `1e-12`.
        offset: Added to the norm. Defaults to `0.0`.
    """
    length = norm(x, axis, keepdims=True)
    vectors = ops.where(ops.equal(length, 0), ops.zeros_like(x), x)
    return vectors / (ops.maximum(length, floor) + offset)
