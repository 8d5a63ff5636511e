"""JensenShannon: both distributions compared with their mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.soft_targets import SoftTargetsLoss, kl_of_logs
from keras_kd.system.arguments import number


def jensen_shannon(teacher: Any, student: Any, beta: float = 0.5, temperature: float = 1.0) -> Any:
    """Return `T^2 * (beta KL(p_t, m) + (1 - beta) KL(p_s, m))`, `m = beta p_t + (1 - beta) p_s`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        beta: Share of the teacher in the mixture, from 0 to 1; the limits 0 and 1 are
            `KL(p_t, p_s)` and `KL(p_s, p_t)`. Defaults to `0.5`.
        temperature: `T`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`, in nats times `T^2`.
    """
    if beta == 0:
        return kl_divergence(teacher, student, temperature)
    if beta == 1:
        return kl_divergence(student, teacher, temperature)
    log_teacher, log_student = (ops.log_softmax(x / temperature) for x in (teacher, student))
    mixture = ops.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    to_teacher, to_student = kl_of_logs(log_teacher, mixture), kl_of_logs(log_student, mixture)
    return temperature**2 * (beta * to_teacher + (1.0 - beta) * to_student)


@keras.saving.register_keras_serializable(package="keras_kd")
class JensenShannon(SoftTargetsLoss):
    """Generalized Jensen-Shannon divergence of two softened predictions.

    `T^2 * mean_b (beta KL(p_t, m) + (1 - beta) KL(p_s, m))` with the mixture
    `m = beta p_t + (1 - beta) p_s` and `p = softmax(logits / T)`. It is bounded: with `beta=0.5` it
    is at most `T^2 log 2`, and symmetric.

    Divided by `beta`, it becomes `KLDivergence` as `beta` goes to 0, and divided by `1 - beta`
    `ReverseKL` as `beta` goes to 1. As in the published code, `beta=0` and `beta=1` are these two,
    although the undivided formula is zero there. The published code has no factor `T^2`, which is 1
    at the default temperature.

    Args:
        beta: Share of the teacher in the mixture, from 0 to 1. Defaults to `0.5`.
        temperature: `T`, above 0; higher is softer. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"jensen_shannon"`.
        class_weight: As in `KLDivergence`. Defaults to `None`.
        chunk_size: As in `KLDivergence`. Defaults to `None`, all positions at once.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `beta` is not between 0 and 1, or for the reasons of `KLDivergence`.

    Example:

    ```python
    loss = keras_kd.losses.JensenShannon(beta=0.5)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated
        Mistakes (GKD), 2023, arXiv:2306.13649.
    """

    def __init__(
        self,
        beta: float = 0.5,
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
        self.beta = number("beta", beta, least=0, most=1, owner="JensenShannon")

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        return jensen_shannon(teacher, student, self.beta, self.temperature)
