"""CorrelationCongruence: kernel matrices of the batch."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.norms import square_root
from keras_kd.losses.shared.pairwise import gram
from keras_kd.losses.shared.relation import RelationLoss, flatten, weigh_pairs
from keras_kd.system.arguments import number, scheduled


def kernel_matrix(x: Any, gamma: float = 0.4, max_order: int = 2) -> Any:
    """Return `exp(-2 gamma) sum_n (2 gamma)^n / n! (x . y)^n`, `n` from 0 to `max_order`.

    The Taylor series of the Gaussian kernel `exp(-gamma |x - y|^2)` of unit vectors.

    Args:
        x: Vectors `[batch, values]`.
        gamma: Of the Gaussian kernel. Defaults to `0.4`.
        max_order: The last term. Defaults to `2`.

    Returns:
        Tensor `[batch, batch]`.
    """
    products = gram(x)
    gamma = ops.convert_to_tensor(gamma, products.dtype)
    total, power = ops.ones_like(products), ops.ones_like(products)
    for n in range(1, max_order + 1):
        power = power * products
        total = total + (2.0 * gamma) ** n / math.factorial(n) * power
    return ops.exp(-2.0 * gamma) * total


@keras.saving.register_keras_serializable(package="keras_kd")
class CorrelationCongruence(RelationLoss):
    """Correlation congruence.

    The Frobenius norm of the difference between the kernel matrices of teacher and student, over
    `batch^2`. The kernel is the Taylor series of a Gaussian one for vectors of length one; as in
    torchdistill's code, features are not normalized here. It is computed in float64.
    `sample_weight` weighs the squared differences of pairs, by `w_i w_j`.

    Args:
        gamma: Of the Gaussian kernel, above 0. Defaults to `0.4`.
        max_order: The last term of the series, a whole number above 0. Defaults to `2`.
        name: Name of the loss. Defaults to `"correlation_congruence"`.

    Raises:
        ValueError: If `gamma` or `max_order` is not above 0; when called, if the batches differ in
            size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.CorrelationCongruence())
    ```

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, 2019, arXiv:1904.01802.
    """

    scheduled_arguments = ("gamma",)

    def __init__(self, gamma: float = 0.4, max_order: int = 2, name: str | None = None) -> None:
        super().__init__(name)
        owner = type(self).__name__
        self.gamma = scheduled("gamma", gamma, above=0, owner=owner)
        self.max_order = number("max_order", max_order, least=1, whole=True, owner=owner)

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the Frobenius norm over `batch^2`."""
        squares = ops.square(self.call(teacher, student, labels))
        pairs = ops.cast(ops.maximum(ops.size(squares), 1), squares.dtype)
        total = ops.sum(weigh_pairs(squares, sample_weight))
        return ops.cast(square_root(total) / pairs, student.dtype)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the difference of the kernel matrices, `[batch, batch]`, in float64."""
        teacher, student = (
            kernel_matrix(ops.cast(flatten(x), "float64"), self.gamma, self.max_order)
            for x in (teacher, student)
        )
        return teacher - student
