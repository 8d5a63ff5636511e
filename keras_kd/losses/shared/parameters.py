"""What losses with variables of their own share."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_kd.losses.shared.base import DistillationLoss

Shape = tuple[int | None, ...]


def built_parameters(loss: DistillationLoss) -> Any:
    """Return the variables of `loss`.

    Raises:
        ValueError: If they have not been made yet.
    """
    if loss.parameters is None:
        name = type(loss).__name__
        raise ValueError(
            f"{name} has variables of its own that are not made yet. Put it in a hint, which makes "
            f'them: keras_kd.Hint("teacher_layer", "student_layer", loss={name}(...)); or call '
            f"build(teacher_shape, student_shape) first."
        )
    return loss.parameters


def number_of_channels(loss: str, shape: Shape, side: str) -> int:
    """Return the last side of `shape`.

    Raises:
        ValueError: If it is not known.
    """
    if len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"{loss} needs to know the channels of the {side}'s feature, but its shape is {shape}."
        )
    return int(shape[-1])


def number_of_values(loss: str, shape: Shape, side: str) -> int:
    """Return how many values a sample of `shape` has.

    Raises:
        ValueError: If it is not known.
    """
    sides = [side for side in shape[1:] if side is not None]
    if len(sides) < max(len(shape) - 1, 1):
        raise ValueError(
            f"{loss} needs to know the size of the {side}'s feature, but its shape is {shape}. "
            "Name a layer after a global pooling."
        )
    return math.prod(sides)


def uniform_by_fan_in(gain: float) -> keras.initializers.Initializer:
    """Return uniform weights of variance `gain / fan_in`."""
    return keras.initializers.VarianceScaling(gain, mode="fan_in", distribution="uniform")


def torch_default() -> keras.initializers.Initializer:
    """Return PyTorch's default of linear layers and convolutions: `U(+-1 / sqrt(fan_in))`."""
    return uniform_by_fan_in(1.0 / 3.0)


def torch_default_bias(fan_in: int) -> keras.initializers.Initializer:
    """Return PyTorch's default of biases: `U(+-1 / sqrt(fan_in))`."""
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def several_replicas() -> bool:
    """Return whether the running strategy has more than one replica."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1
