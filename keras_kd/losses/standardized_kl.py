"""StandardizedKL: logits compared after their mean and spread are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.logits import TemperatureLoss


@keras.saving.register_keras_serializable(package="keras_kd")
class StandardizedKL(TemperatureLoss):
    """`KLDivergence` of logits that are standardised row by row.

    `z = (x - mean) / (1e-7 + std)`, so that the student need not match the size of the teacher's
    logits but only their relations; then `T^2 * mean_b sum_c p_t (log p_t - log p_s)` with
    `p = softmax(z / T)`. Other losses on logits do the same with `standardize=True`.

    Args:
        temperature: `T`, above 0. Defaults to `2.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"standardized_kl"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.

    Raises:
        ValueError: If `temperature` is not above 0.

    Example:

    ```python
    loss = keras_kd.losses.StandardizedKL(temperature=2.0)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, 2024, arXiv:2403.01427.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize=True)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        return kl_divergence(self.as_logits(teacher), self.as_logits(student), self.temperature)
