"""What a stage keeps of earlier ones: zeros stay zero, and shared values stay shared."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is kept of a kernel while it trains.

    Attributes:
        mask: Zero where a weight stays zero, else one; `None` where all may change.
        groups: A number for every weight; those of one number keep one value. `None` where each
            learns by itself.
    """

    mask: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __call__(self, variable: keras.Variable) -> tf.Tensor:
        """Return a kernel with its zeros at zero and its shared values shared."""
        values = tf.convert_to_tensor(variable.value)
        if self.groups is not None:
            numbers = tf.constant(self.groups.reshape(-1))
            count = int(self.groups.max()) + 1
            means = tf.math.unsorted_segment_mean(tf.reshape(values, [-1]), numbers, count)
            values = tf.reshape(tf.gather(means, numbers), values.shape)
        return values if self.mask is None else values * tf.constant(self.mask, values.dtype)

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return self.mask is not None or self.groups is not None


def zeros_of(variable: Any) -> np.ndarray | None:
    """Return the mask that keeps the zeros of a kernel, `None` where it has none."""
    kept = keras.ops.convert_to_numpy(variable.value) != 0
    return None if kept.all() else kept


def zeros_to_keep(model: keras.Model) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return the trainable weights of a pruned model that hold zeros, each with its mask.

    Those of one axis, and those that are zero throughout because nothing has trained them yet, are
    left out: nothing has pruned them.
    """
    masks = [
        (variable, zeros_of(variable))
        for variable in model.trainable_variables
        if len(variable.shape) > 1
    ]
    return [(variable, mask) for variable, mask in masks if mask is not None and mask.any()]


def groups_of(variable: Any, per_channel: bool) -> np.ndarray:
    """Return a number for every weight of a kernel, one number for those that have one value.

    Args:
        variable: The kernel.
        per_channel: Whether values are shared within a position of the last axis only.
    """
    values = keras.ops.convert_to_numpy(variable.value)
    columns = values.reshape(-1, values.shape[-1] if per_channel else 1)
    numbers = np.zeros(columns.shape, "int32")
    first = 0
    for i, column in enumerate(columns.T):
        found, inverse = np.unique(column, return_inverse=True)
        numbers[:, i] = inverse.reshape(-1) + first
        first += len(found)
    return numbers.reshape(values.shape)
