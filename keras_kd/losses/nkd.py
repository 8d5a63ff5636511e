"""NKD: the target class by cross-entropy, the other classes as a distribution of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.class_labels import label_mask, others_log_softmax
from keras_kd.losses.shared.logits import TemperatureLoss
from keras_kd.system.arguments import scheduled


def nkd(
    teacher: Any, student: Any, labels: Any, gamma: float = 1.5, temperature: float = 1.0
) -> Any:
    """Return `-t_y log s_y - gamma * T^2 * sum_{c != y} t^_c log s^_c`.

    `t_y` and `s_y` are probabilities at temperature 1; hats are softmaxes over the classes other
    than the label's, at temperature `T`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        labels: Class indices `[...]` or one-hot.
        gamma: Weight of the second term. Defaults to `1.5`.
        temperature: `T`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`; zero where a label lies outside of the classes.
    """
    mask = label_mask(labels, student)
    weighted = ops.softmax(teacher, axis=-1) * ops.log_softmax(student, axis=-1)
    target = ops.sum(ops.where(mask, weighted, ops.zeros_like(weighted)), axis=-1)
    others = ops.sum(
        ops.exp(others_log_softmax(teacher / temperature, mask))
        * others_log_softmax(student / temperature, mask),
        axis=-1,
    )
    values = -target - gamma * temperature**2 * others
    return ops.where(ops.any(mask, axis=-1), values, ops.zeros_like(values))


@keras.saving.register_keras_serializable(package="keras_kd")
class NKD(TemperatureLoss):
    """Normalized knowledge distillation.

    The teacher's probability of the label's class weighs the student's cross-entropy, and the other
    classes, normalized to sum to one on both sides, are distilled by themselves:
    `-mean_b(t_y log s_y) - gamma * T^2 * mean_b sum_{c != y} t^_c log s^_c`.

    Args:
        gamma: Weight of the other classes. Defaults to `1.5`.
        temperature: `T` of the other classes, above 0. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"nkd"`.
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
    loss = keras_kd.losses.NKD(gamma=1.5, temperature=1.0)
    loss(teacher_logits, student_logits, labels)  # logits [batch, ..., classes]
    ```

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
        with Normalized Loss and Customized Soft Labels, 2023, arXiv:2303.13005.
    """

    uses_labels = True
    scheduled_arguments = ("temperature", "gamma")

    def __init__(
        self,
        gamma: float = 1.5,
        temperature: float = 1.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize=standardize)
        self.gamma = scheduled("gamma", gamma, least=0, owner="NKD")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample or position, `[batch, ...]`."""
        return nkd(
            self.as_logits(teacher), self.as_logits(student), labels, self.gamma, self.temperature
        )
