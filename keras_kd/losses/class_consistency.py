"""ClassConsistency: samples of one class are asked for one prediction."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.class_labels import label_mask
from keras_kd.losses.shared.logits import TemperatureLoss


def partners(labels: Any) -> tuple[Any, Any]:
    """Return the next sample of the same class, in the order of the batch and around its end.

    Args:
        labels: Class masks, `[batch, classes]`; a row without a class has no partner.

    Returns:
        Indices `[batch]`, and booleans `[batch]`: whether there is another sample of the class.
    """
    labels = ops.cast(labels, "float32")
    batch = ops.shape(labels)[0]
    places = ops.arange(batch, dtype="int32")
    steps = (ops.expand_dims(places, 0) - ops.expand_dims(places, 1)) % batch
    alike = ops.logical_and(ops.matmul(labels, ops.transpose(labels)) > 0, steps > 0)
    steps = ops.where(alike, steps, ops.full_like(steps, batch))
    # One column more, which is never the least: a replica's part of a batch may be empty.
    steps = ops.concatenate([steps, ops.full((batch, 1), batch + 1)], axis=1)
    return ops.argmin(steps, axis=1), ops.any(alike, axis=1)


@keras.saving.register_keras_serializable(package="keras_kd")
class ClassConsistency(TemperatureLoss):
    """Class-wise self-knowledge distillation, without a teacher.

    The target of a sample is the student's own softened prediction of another sample of the same
    class, without a gradient: `T^2 * mean_b KL(p_s(x'), p_s(x))`. The teacher's outputs are not
    used, but a `kd.Distiller` runs a teacher: a function that returns zeros costs nothing.

    The partner is the next sample of the class in the batch; a sample without one has the loss
    zero. The paper draws pairs of a class into the batch: choose batches that are larger than the
    number of classes. Outputs are `[batch, classes]`.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `4.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"class_consistency"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0; when called, if labels are missing or do not
            fit.

    Example:

    ```python
    def no_teacher(x):
        return keras.ops.zeros((keras.ops.shape(x)[0], 10))

    distiller = keras_kd.Distiller(no_teacher, student, keras_kd.losses.ClassConsistency())
    ```

    Reference:
        Yun et al., Regularizing Class-wise Predictions via Self-knowledge Distillation (CS-KD),
        2020, arXiv:2003.13964.
    """

    uses_labels = True

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse outputs that are not `[batch, classes]`."""
        super().check_shapes(teacher, student)
        if len(student.shape) != 2:
            raise ValueError(
                "ClassConsistency pairs the samples of a batch, outputs of shape [batch, classes]. "
                f"Received: outputs of shape {tuple(student.shape)}. Use a loss for positions."
            )

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the divergence of each sample, `[batch]`."""
        student = self.as_logits(student)
        others, found = partners(label_mask(labels, student))
        targets = ops.stop_gradient(ops.take(student, others, axis=0))
        values = kl_divergence(targets, student, self.temperature)
        return ops.where(found, values, ops.zeros_like(values))
