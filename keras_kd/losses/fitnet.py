"""FitNet: features of the student regressed on those of the teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss


def squared_difference(teacher: Any, student: Any) -> Any:
    """Return the squared difference of two features, averaged over channels.

    Args:
        teacher: Feature of the teacher, `[..., channels]`.
        student: Feature of the student, `[..., channels]`.

    Returns:
        Tensor `[...]`.
    """
    return ops.mean(ops.square(teacher - student), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class FitNet(DistillationLoss):
    """Mean squared difference between a teacher's feature and a student's.

    The mean is over all elements. In a `keras_kd.Hint` the student's feature is projected to the
    teacher's shape first.

    Args:
        name: Name of the loss. Defaults to `"fit_net"`.

    Example:

    ```python
    hint = keras_kd.Hint("block4_out", "block2_out", loss=keras_kd.losses.FitNet())
    ```

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015, arXiv:1412.6550.
    """

    reads_features = True

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the mean squared difference at each position, `[batch, ...]`."""
        if len(student.shape) < 2:
            return ops.square(teacher - student)
        return squared_difference(teacher, student)
