"""ProbabilityMSE: class probabilities of the student regressed on those of the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.logits import TemperatureLoss


def probability_mse(teacher: Any, student: Any, temperature: float = 1.0) -> Any:
    """Return `1/2 sum_c (p_s - p_t)^2` with `p = softmax(logits / T)`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        temperature: `T`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`.
    """
    difference = ops.softmax(student / temperature) - ops.softmax(teacher / temperature)
    return 0.5 * ops.sum(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class ProbabilityMSE(TemperatureLoss):
    """Half the squared difference of the class probabilities, summed over classes.

    `mean_b 1/2 sum_c (p_s - p_t)^2`, both `p = softmax(logits / T)`; there is no factor `T^2`.

    Args:
        temperature: `T`, above 0. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"probability_mse"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0.

    Example:

    ```python
    loss = keras_kd.losses.ProbabilityMSE()
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, arXiv:1312.6184, compare
        regression on logits with regression on probabilities.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize=standardize)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return half the squared difference of each sample or position, `[batch, ...]`."""
        return probability_mse(self.as_logits(teacher), self.as_logits(student), self.temperature)
