"""ReverseKL: the divergence of the teacher from the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.soft_targets import SoftTargetsLoss


@keras.saving.register_keras_serializable(package="keras_kd")
class ReverseKL(SoftTargetsLoss):
    """Kullback-Leibler divergence of the teacher's softened predictions from the student's.

    `T^2 * mean_b sum_c p_s (log p_s - log p_t)`, both `p = softmax(logits / T)`. The student is
    penalised where it is likely and the teacher is not: it covers what the teacher finds likeliest
    and leaves the rest, where `KLDivergence` spreads over all of it.

    MiniLLM estimates this divergence of whole sequences, which the student writes, by policy
    gradients. Here it is the exact divergence at each position of the given sequences. The factor
    `T^2` is not in the paper; it is 1 at the default temperature.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"reverse_kl"`.
        class_weight: As in `KLDivergence`. Defaults to `None`.
        chunk_size: As in `KLDivergence`. Defaults to `None`, all positions at once.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0, `chunk_size` is not a whole number above 0, or
            a `TopKLogits` was made for another temperature.

    Example:

    ```python
    loss = keras_kd.losses.ReverseKL()
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2023, arXiv:2306.08543.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        chunk_size: int | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            temperature, from_logits, name, class_weight, chunk_size, standardize=standardize
        )

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        return kl_divergence(student, teacher, self.temperature)
