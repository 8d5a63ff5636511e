"""SkewKL: a distribution compared with its mixture with the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.soft_targets import SoftTargetsLoss, kl_of_logs
from keras_kd.system.arguments import number


def skew_kl(first: Any, second: Any, alpha: float = 0.1, temperature: float = 1.0) -> Any:
    """Return `T^2 * KL(p, alpha p + (1 - alpha) q)` with `p` and `q` of softened logits.

    Args:
        first: Logits of `p`, `[..., classes]`.
        second: Logits of `q`, `[..., classes]`.
        alpha: Share of `p` in the mixture, from 0 to below 1. Defaults to `0.1`.
        temperature: `T`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`, in nats times `T^2`.
    """
    log_first, mixture = (ops.log_softmax(x / temperature) for x in (first, second))
    if alpha > 0:
        mixture = ops.logaddexp(log_first + math.log(alpha), mixture + math.log1p(-alpha))
    return temperature**2 * kl_of_logs(log_first, mixture)


@keras.saving.register_keras_serializable(package="keras_kd")
class SkewKL(SoftTargetsLoss):
    """Skew Kullback-Leibler divergence, forward or reverse.

    `T^2 * mean_b KL(p_t, alpha p_t + (1 - alpha) p_s)`, and with `reverse=True`
    `T^2 * mean_b KL(p_s, (1 - alpha) p_t + alpha p_s)`, both `p = softmax(logits / T)`. The
    mixture bounds the divergence by `-T^2 log(alpha)` and its gradient, where `KLDivergence` and
    `ReverseKL` (`alpha=0`) grow without bound. The published code has no factor `T^2`, which is 1
    at the default temperature.

    Args:
        alpha: Share of the first distribution in the mixture, from 0 to below 1. Defaults to `0.1`.
        reverse: Whether the student is the first distribution. Defaults to `False`.
        temperature: `T`, above 0; higher is softer. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"skew_kl"`.
        class_weight: As in `KLDivergence`. Defaults to `None`.
        chunk_size: As in `KLDivergence`. Defaults to `None`, all positions at once.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `alpha` is not at least 0 and below 1, or for the reasons of `KLDivergence`.

    Example:

    ```python
    loss = keras_kd.losses.SkewKL(alpha=0.1)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, 2024,
        arXiv:2402.03898.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        reverse: bool = False,
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
        self.alpha = number("alpha", alpha, least=0, below=1, owner="SkewKL")
        self.reverse = reverse

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        first, second = (student, teacher) if self.reverse else (teacher, student)
        return skew_kl(first, second, self.alpha, self.temperature)
