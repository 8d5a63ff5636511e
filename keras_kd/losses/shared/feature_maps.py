"""MapLoss: what losses between feature maps share."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.weighting import spread


class MapLoss(DistillationLoss):
    """A loss between feature maps `[batch, side_1, ..., channels]`, one value per sample.

    Masked positions of a sequence are set to zero on both sides.
    """

    reads_features = True
    mixes_positions = True

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse features without sides; unequal channels and sides where they must be equal.

        Raises:
            ValueError: Naming the shape.
        """
        pairs = zip(teacher, student, strict=True) if self.several_layers else [(teacher, student)]
        for t, s in pairs:
            for side, tensor in (("teacher", t), ("student", s)):
                if len(tensor.shape) < 3:
                    raise ValueError(
                        f"{type(self).__name__} compares feature maps of shape "
                        f"[batch, height, width, channels] or [batch, time, channels]. "
                        f"Received: a {side}'s feature of shape {tuple(tensor.shape)}. "
                        "Name a layer before pooling and flattening."
                    )
            channels = (t.shape[-1], s.shape[-1])
            if self.equal_shapes and channels[0] != channels[1]:
                raise ValueError(
                    f"{type(self).__name__} needs equal numbers of channels. Received: a "
                    f"teacher's feature of shape {tuple(t.shape)}, a student's of shape "
                    f"{tuple(s.shape)}. Name the layers in a keras_kd.Hint, which "
                    "projects the student's feature."
                )
            if self.equal_sides:
                super().check_shapes(t, s)


def flatten_sides(x: Any) -> Any:
    """Return a map `[batch, side_1, ..., channels]` as `[batch, positions, channels]`."""
    sides = x.shape[1:-1]
    positions = -1 if any(side is None for side in sides) else math.prod(sides)
    return ops.reshape(x, (ops.shape(x)[0], positions, x.shape[-1]))


def masked_center(feature: Any, mask: Any = None) -> tuple[Any, Any]:
    """Return a feature less the mean of each channel over batch and positions.

    Args:
        feature: Feature `[batch, ..., channels]`.
        mask: Where false, a position does not count and becomes zero. Defaults to `None`.

    Returns:
        The centered feature, and the number of positions that count.
    """
    counted = ops.ones_like(feature[..., :1])
    if mask is not None:
        counted = counted * spread(ops.cast(mask, feature.dtype), feature, "mask")
    count = ops.sum(counted)
    axes = tuple(range(len(feature.shape) - 1))
    total = ops.sum(counted * feature, axis=axes, keepdims=True)
    return counted * (feature - total / ops.maximum(count, 1)), count
