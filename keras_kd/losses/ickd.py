"""ICKD: which channels are active together."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss, flatten_sides
from keras_kd.losses.shared.norms import l2_normalize


def channel_correlations(feature: Any) -> Any:
    """Return the Gram matrix of the channels, each row of length one.

    Args:
        feature: Map `[batch, side_1, ..., channels]`.

    Returns:
        Tensor `[batch, channels, channels]`.
    """
    x = flatten_sides(feature)
    return l2_normalize(ops.matmul(ops.transpose(x, (0, 2, 1)), x))


def ickd(teacher: Any, student: Any) -> Any:
    """Return the summed squared difference of the channels' correlations, divided by channels.

    Args:
        teacher: Map of the teacher, `[batch, side_1, ..., channels]`.
        student: Map of the student, with the same channels; its sides may differ.

    Returns:
        Tensor `[batch]`.
    """
    difference = channel_correlations(teacher) - channel_correlations(student)
    channels = ops.cast(ops.shape(student)[-1], student.dtype)
    return ops.sum(ops.square(difference), axis=(1, 2)) / channels


@keras.saving.register_keras_serializable(package="keras_kd")
class ICKD(MapLoss):
    """Inter-channel correlation.

    The channels' Gram matrix over space of each sample, its rows divided by their norms, is
    compared: the sum of squared differences over batch times channels. Channels must agree: a
    `keras_kd.Hint` projects the student's. Sides need not.

    Args:
        name: Name of the loss. Defaults to `"ickd"`.

    Raises:
        ValueError: When called, if a feature is not a map or channels differ.

    Example:

    ```python
    hint = keras_kd.Hint("block3", "block2", loss=keras_kd.losses.ICKD())
    ```

    Reference:
        Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
        Distillation, ICCV 2021, arXiv:2202.03680.
    """

    equal_sides = False

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        return ickd(teacher, student)
