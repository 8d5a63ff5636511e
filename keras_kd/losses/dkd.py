"""DKD: the target class and the other classes distilled with separate weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.binary_kl_divergence import bernoulli_kl
from keras_kd.losses.shared.class_labels import label_mask, others_log_softmax, others_log_sum_exp
from keras_kd.losses.shared.logits import TemperatureLoss
from keras_kd.system.arguments import scheduled


def target_class_kd(teacher: Any, student: Any, mask: Any) -> Any:
    """Return the divergence of "the label's class or another" between two softmaxes.

    Args:
        teacher: Logits of the teacher, divided by the temperature, `[..., classes]`.
        student: Logits of the student, likewise.
        mask: Booleans `[..., classes]`, true at the label's class.

    Returns:
        Tensor `[...]`.
    """
    margins = [
        ops.sum(ops.where(mask, x, ops.zeros_like(x)), axis=-1) - others_log_sum_exp(x, mask)
        for x in (teacher, student)
    ]
    return bernoulli_kl(*margins)


def non_target_class_kd(teacher: Any, student: Any, mask: Any) -> Any:
    """Return the divergence between the softmaxes over the classes other than the label's.

    Arguments and result are those of `target_class_kd`.
    """
    log_teacher, log_student = others_log_softmax(teacher, mask), others_log_softmax(student, mask)
    return ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)


def dkd(
    teacher: Any,
    student: Any,
    labels: Any,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Any:
    """Return `T^2 * (alpha * TCKD + beta * NCKD)`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        labels: Class indices `[...]` or one-hot.
        alpha: Weight of the target-class term. Defaults to `1.0`.
        beta: Weight of the non-target-class term. Defaults to `8.0`.
        temperature: `T`. Defaults to `4.0`.

    Returns:
        Tensor `[...]`; zero where a label lies outside of the classes.
    """
    mask = label_mask(labels, student)
    teacher, student = teacher / temperature, student / temperature
    tckd = target_class_kd(teacher, student, mask)
    nckd = non_target_class_kd(teacher, student, mask)
    values = temperature**2 * (alpha * tckd + beta * nckd)
    return ops.where(ops.any(mask, axis=-1), values, ops.zeros_like(values))


@keras.saving.register_keras_serializable(package="keras_kd")
class DKD(TemperatureLoss):
    """Decoupled knowledge distillation.

    The divergence is split in two: TCKD, between the probabilities of "the label's class" and
    "another class", and NCKD, between the distributions over the other classes, which
    `KLDivergence` weighs down where the teacher is sure.
    `T^2 * mean_b (alpha * TCKD + beta * NCKD)`. The label's class is left out of NCKD exactly;
    the authors' code subtracts 1000 from its logit.

    Args:
        alpha: Weight of TCKD. Defaults to `1.0`.
        beta: Weight of NCKD. Defaults to `8.0`.
        temperature: `T`, above 0. Defaults to `4.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"dkd"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0; when called, if labels are missing or do not
            fit. A label outside of the classes (`-1`, or the 255 of segmentation data) marks a
            position without label, whose loss is zero.

    Example:

    ```python
    loss = keras_kd.losses.DKD(alpha=1.0, beta=8.0, temperature=4.0)
    loss(teacher_logits, student_logits, labels)  # logits [batch, ..., classes]
    ```

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, 2022, arXiv:2203.08679.
    """

    uses_labels = True
    scheduled_arguments = ("temperature", "alpha", "beta")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize=standardize)
        self.alpha = scheduled("alpha", alpha, least=0, owner="DKD")
        self.beta = scheduled("beta", beta, least=0, owner="DKD")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample or position, `[batch, ...]`."""
        return dkd(
            self.as_logits(teacher),
            self.as_logits(student),
            labels,
            self.alpha,
            self.beta,
            self.temperature,
        )
