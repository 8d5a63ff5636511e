"""AlphaBeta: a family of divergences with the forward and the reverse one among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.soft_targets import SoftTargetsLoss
from keras_kd.system.arguments import number


def alpha_beta(
    teacher: Any, student: Any, alpha: float = 0.2, beta: float = 0.7, temperature: float = 1.0
) -> Any:
    """Return `T^2` times the alpha-beta divergence of two softened distributions.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        alpha: Exponent of the teacher, at least 0. Defaults to `0.2`.
        beta: Exponent of the student, at least 0. Defaults to `0.7`.
        temperature: `T`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`.
    """
    log_teacher, log_student = (ops.log_softmax(x / temperature) for x in (teacher, student))
    difference = log_student - log_teacher
    if alpha == 0 and beta == 0:
        values = 0.5 * ops.square(difference)
    elif beta == 0:
        values = _limit(log_teacher, log_student, alpha)
    elif alpha == 0:
        values = _limit(log_student, log_teacher, beta)
    else:
        # The larger probability is a factor, so that no power overflows; what remains depends on
        # the ratio alone and does not cancel near equal probabilities.
        total, larger = alpha + beta, ops.maximum(log_teacher, log_student)
        power = beta + (alpha - beta) * ops.cast(difference > 0, difference.dtype)
        ratio = -ops.abs(difference)
        remaining = power * ops.expm1(total * ratio) / total - ops.expm1(power * ratio)
        values = ops.exp(total * larger) * remaining / (alpha * beta)
    return temperature**2 * ops.sum(values, axis=-1)


def _limit(log_p: Any, log_q: Any, exponent: float) -> Any:
    """Return `(p^a (log(p^a / q^a) - 1) + q^a) / a^2`, computed as the general case is."""
    ratio = -exponent * ops.abs(log_p - log_q)
    fall = ops.expm1(ratio)
    remaining = ops.where(log_p > log_q, fall - ratio, ratio * ops.exp(ratio) - fall)
    return ops.exp(exponent * ops.maximum(log_p, log_q)) * remaining / exponent**2


@keras.saving.register_keras_serializable(package="keras_kd")
class AlphaBeta(SoftTargetsLoss):
    """Alpha-beta divergence of two softened predictions.

    `-T^2 / (alpha beta) * mean_b sum_c (p_t^alpha p_s^beta - alpha / (alpha + beta) p_t^(alpha +
    beta) - beta / (alpha + beta) p_s^(alpha + beta))`, both `p = softmax(logits / T)`. `alpha`
    weighs classes by how wrong the student is, `beta` by how likely it finds them. Where one of
    them is 0 the limit is taken: `AlphaBeta(1, 0)` is `KLDivergence`, `AlphaBeta(0, 1)`
    `ReverseKL`, `AlphaBeta(0, 0)` half the sum of squared differences of log-probabilities.

    Negative exponents, which the authors allow, are refused: small probabilities overflow then. The
    published code has no factor `T^2`, which is 1 at the default temperature. With top-k logits the
    other classes count as one class; where `alpha + beta` is not 1, the divergence from that class
    is not the one from its members.

    Args:
        alpha: Exponent of the teacher, at least 0. Defaults to `0.2`.
        beta: Exponent of the student, at least 0. Defaults to `0.7`.
        temperature: `T`, above 0; higher is softer. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"alpha_beta"`.
        class_weight: As in `KLDivergence`. Defaults to `None`.
        chunk_size: As in `KLDivergence`. Defaults to `None`, all positions at once.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `alpha` or `beta` is below 0, or for the reasons of `KLDivergence`.

    Example:

    ```python
    loss = keras_kd.losses.AlphaBeta(alpha=0.2, beta=0.7)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Wang et al., ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
        Distillation via alpha-beta-Divergence, 2025, arXiv:2505.04560.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 0.7,
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
        self.alpha = number("alpha", alpha, least=0, owner="AlphaBeta")
        self.beta = number("beta", beta, least=0, owner="AlphaBeta")

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        return alpha_beta(teacher, student, self.alpha, self.beta, self.temperature)
