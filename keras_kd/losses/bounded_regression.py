"""BoundedRegression: real-valued outputs, taught only where the teacher is not much worse."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.system.arguments import scheduled


def bounded_regression(teacher: Any, student: Any, labels: Any, margin: float = 0.0) -> Any:
    """Return `|s - y|^2` where `|s - y|^2 + margin > |t - y|^2`, and zero elsewhere.

    Args:
        teacher: Outputs of the teacher, `[..., values]`.
        student: Outputs of the student, `[..., values]`.
        labels: True values, `[..., values]`.
        margin: By how much, in squared units, the student must be better than the teacher before
            it is left alone. Defaults to `0.0`.

    Returns:
        Tensor `[...]`.
    """
    student_error = ops.sum(ops.square(student - labels), axis=-1)
    teacher_error = ops.sum(ops.square(teacher - labels), axis=-1)
    return ops.where(
        student_error + margin > teacher_error, student_error, ops.zeros_like(student_error)
    )


@keras.saving.register_keras_serializable(package="keras_kd")
class BoundedRegression(DistillationLoss):
    """Regression in which the teacher's error is a bound, not a target.

    A teacher of real values may be wrong in any direction, so the student is not regressed to
    its outputs. The student's squared error counts wherever it is not at least `margin` below the
    teacher's squared error: `mean_b |s - y|^2 [|s - y|^2 + margin > |t - y|^2]`.

    Args:
        margin: In squared units of the outputs, 0 or more. Defaults to `0.0`.
        name: Name of the loss. Defaults to `"bounded_regression"`.

    Raises:
        ValueError: If `margin` is below 0; when called, if labels are missing or do not fit.

    Example:

    ```python
    distiller = keras_kd.Distiller(teacher, student, keras_kd.losses.BoundedRegression(0.1))
    distiller.compile("adam", loss="mse")
    distiller.fit(x, y, epochs=10)  # y: [batch, values]
    ```

    Beside a classification, each output with the loss of its task:

    ```python
    distiller = keras_kd.Distiller(
        teacher,
        student,  # returns {"kind": logits, "size": values}
        {"kind": keras_kd.losses.KLDivergence(), "size": keras_kd.losses.BoundedRegression()},
    )
    distiller.compile(
        "adam",
        loss={
            "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "size": "mse",
        },
    )
    ```

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation,
        NIPS 2017, equation 5.
    """

    uses_labels = True
    scheduled_arguments = ("margin",)

    def __init__(self, margin: float = 0.0, name: str | None = None) -> None:
        super().__init__(name)
        self.margin = scheduled("margin", margin, least=0, owner="BoundedRegression")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the bounded error of each sample or position, `[batch, ...]`."""
        labels = ops.cast(labels, student.dtype)
        if len(student.shape) < 2:
            teacher, student = ops.expand_dims(teacher, -1), ops.expand_dims(student, -1)
        if len(labels.shape) == len(student.shape) - 1 and student.shape[-1] == 1:
            labels = ops.expand_dims(labels, -1)
        if len(labels.shape) != len(student.shape) or any(
            a is not None and b is not None and a != b
            for a, b in zip(labels.shape, student.shape, strict=True)
        ):
            raise ValueError(
                f"BoundedRegression: labels have shape {tuple(labels.shape)}, but the outputs "
                f"{tuple(student.shape)}. Pass one true value per output."
            )
        return bounded_regression(teacher, student, labels, self.margin)
