"""LogitsMSE: logits of the student regressed on those of the teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.logits import standardize


def logits_mse(teacher: Any, student: Any) -> Any:
    """Return the squared difference of the logits, averaged over classes.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.

    Returns:
        Tensor `[...]`.
    """
    return ops.mean(ops.square(teacher - student), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class LogitsMSE(DistillationLoss):
    """Mean squared difference of the logits, over batch and classes.

    What `KLDivergence` tends to at high temperature, where the logits of either model sum to zero.

    Args:
        name: Name of the loss. Defaults to `"logits_mse"`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does; of three outputs or more. Defaults to `False`.

    Example:

    ```python
    loss = keras_kd.losses.LogitsMSE()
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, arXiv:1312.6184.
    """

    uses_logits = True

    def __init__(self, name: str | None = None, standardize: bool = False) -> None:
        super().__init__(name)
        self.standardize = standardize

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse unequal shapes, and one or two outputs to standardize: nothing is left of them."""
        super().check_shapes(teacher, student)
        shape = tuple(student.shape)
        if self.standardize and (len(shape) < 2 or shape[-1] < 3):
            raise ValueError(
                "LogitsMSE(standardize=True) divides by the spread over outputs of shape "
                f"[batch, ..., classes], three or more. Received: shape {shape}. Leave out "
                "`standardize`."
            )

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the mean squared difference of each sample or position, `[batch, ...]`."""
        if self.standardize:
            teacher, student = standardize(teacher), standardize(student)
        if len(student.shape) < 2:
            return ops.square(teacher - student)
        return logits_mse(teacher, student)
