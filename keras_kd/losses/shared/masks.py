"""The mask of a tensor: the one place for Keras's functions of it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend import get_keras_mask as get_keras_mask
from keras.src.backend import set_keras_mask as set_keras_mask


def with_masks_of(result: Any, *sources: Any) -> Any:
    """Return a computed tensor, or a structure of them, with the masks of what it was made of.

    Operations that are not layers return tensors without masks.

    Args:
        result: A tensor, or a structure of tensors; those that have a mask keep it.
        *sources: Tensors, or structures as `result`; a tensor gets the mask of the first source
            that has one and the same sides.
    """
    parts = keras.tree.flatten(result)
    for source in sources:
        flat = keras.tree.flatten(source)
        if len(flat) != len(parts):
            continue
        for part, given in zip(parts, flat, strict=True):
            mask = get_keras_mask(given)
            if mask is not None and get_keras_mask(part) is None and _same_sides(part, given):
                set_keras_mask(part, mask)
    return result


def zero_masked(tensor: Any, mask: Any) -> Any:
    """Return `tensor`, `[batch, positions..., channels]`, with zeros where `mask` is false.

    A tensor of other positions than the mask's stays as it is.
    """
    if mask is None or not is_of_positions(mask, tensor):
        return tensor
    mask = ops.cast(mask, "bool")
    for _ in range(len(tensor.shape) - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return ops.where(mask, tensor, ops.zeros_like(tensor))


def is_of_positions(mask: Any, tensor: Any) -> bool:
    """Return whether a mask is of the positions of a tensor `[batch, positions..., channels]`.

    The last axis holds channels: a vector per sample may be as long as a sequence.
    """
    rank = len(mask.shape)
    return rank < len(tensor.shape) and same_shape(tensor.shape[:rank], mask.shape)


def same_shape(first: Any, second: Any) -> bool:
    """Return whether two shapes are equal where both are known."""
    return len(first) == len(second) and all(
        a is None or b is None or a == b for a, b in zip(first, second, strict=True)
    )


def _same_sides(first: Any, second: Any) -> bool:
    return len(first.shape) == len(second.shape) and same_shape(first.shape[:-1], second.shape[:-1])
