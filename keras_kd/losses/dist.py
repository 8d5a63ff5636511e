"""DIST: correlations of predictions within samples and within classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.logits import TemperatureLoss
from keras_kd.losses.shared.norms import norm
from keras_kd.losses.shared.weighting import spread, weighted_mean
from keras_kd.system.arguments import scheduled


def pearson_distance(teacher: Any, student: Any, axis: int, weights: Any = None) -> Any:
    """Return one minus the correlation along `axis`, `1e-8` added to the product of norms.

    Args:
        teacher: Tensor.
        student: Tensor of the same shape.
        axis: The axis of the correlated values.
        weights: Weights of these values, which broadcast to the tensors. Defaults to `None`.

    Returns:
        Tensor without `axis`.
    """
    if weights is None:
        centered = [x - ops.mean(x, axis=axis, keepdims=True) for x in (teacher, student)]
    else:
        total = ops.sum(weights, axis=axis, keepdims=True)
        shares = weights / ops.where(total > 0, total, ops.ones_like(total))
        roots = ops.sqrt(weights)
        centered = [
            roots * (x - ops.sum(shares * x, axis=axis, keepdims=True)) for x in (teacher, student)
        ]
    product = ops.sum(centered[0] * centered[1], axis=axis)
    return 1.0 - product / (norm(centered[0], axis) * norm(centered[1], axis) + 1e-8)


@keras.saving.register_keras_serializable(package="keras_kd")
class DIST(TemperatureLoss):
    """Distillation from a stronger teacher: correlations instead of exact values.

    `T^2 * (beta * mean over rows (1 - Pearson) + gamma * mean over columns (1 - Pearson))` of
    `softmax(logits / T)`. Rows are samples, compared over classes; columns are classes, compared
    over the batch. In sequence and dense outputs each position is a row. It is computed in float64,
    since one minus a correlation cancels.

    Weights and masks: rows are averaged as Keras averages; columns are correlated under the
    weights, and their term is multiplied by the mean weight.

    Args:
        beta: Weight of the rows' term. Defaults to `1.0`.
        gamma: Weight of the columns' term. Defaults to `1.0`.
        temperature: `T`, above 0. Defaults to `1.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"dist"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0.

    Example:

    ```python
    loss = keras_kd.losses.DIST(beta=1.0, gamma=1.0, temperature=1.0)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, arXiv:2205.10536.
    """

    scheduled_arguments = ("temperature", "beta", "gamma")

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize=standardize)
        self.beta = scheduled("beta", beta, least=0, owner="DIST")
        self.gamma = scheduled("gamma", gamma, least=0, owner="DIST")

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted sum of the two terms."""
        dtype = student.dtype
        teacher, student = self._probabilities(teacher), self._probabilities(student)
        rows = pearson_distance(teacher, student, axis=-1)
        inter = weighted_mean(rows, sample_weight, mask)
        weights = None
        for name, part in (("mask", mask), ("sample_weight", sample_weight)):
            if part is not None:
                part = spread(ops.cast(ops.convert_to_tensor(part), "float64"), rows, name)
                weights = part * (ops.ones_like(rows) if weights is None else weights)
        scale = 1.0 if weights is None else weighted_mean(ops.ones_like(rows), sample_weight, mask)
        intra = scale * ops.mean(self._columns(teacher, student, weights))
        return ops.cast(self._sum(inter, intra), dtype)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return values `[batch, ...]` of which the mean is the loss."""
        dtype = student.dtype
        teacher, student = self._probabilities(teacher), self._probabilities(student)
        inter = pearson_distance(teacher, student, axis=-1)
        intra = ops.mean(self._columns(teacher, student))
        return ops.cast(self._sum(inter, intra), dtype)

    def _sum(self, inter: Any, intra: Any) -> Any:
        # The present value of a schedule is a float32 tensor.
        temperature, beta, gamma = (
            ops.convert_to_tensor(value, "float64")
            for value in (self.temperature, self.beta, self.gamma)
        )
        return temperature**2 * (beta * inter + gamma * intra)

    def _probabilities(self, outputs: Any) -> Any:
        logits = self.as_logits(ops.cast(outputs, "float64"))
        return ops.softmax(logits / ops.convert_to_tensor(self.temperature, "float64"), axis=-1)

    @staticmethod
    def _columns(teacher: Any, student: Any, weights: Any = None) -> Any:
        classes = student.shape[-1]
        teacher, student = (ops.reshape(x, (-1, classes)) for x in (teacher, student))
        weights = None if weights is None else ops.reshape(weights, (-1, 1))
        return pearson_distance(teacher, student, axis=0, weights=weights)
