"""PKT: for each sample, the probability with which the others are near."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.pairwise import cosine_similarities
from keras_kd.losses.shared.relation import RelationLoss, flatten

EPSILON = 1e-7


def neighbor_probabilities(x: Any) -> Any:
    """Return `(cos + 1) / 2` of vectors `[batch, values]`, each row divided by its sum.

    The diagonal is part of the row.
    """
    similarities = (cosine_similarities(x, floor=0.0, offset=EPSILON) + 1.0) / 2.0
    return similarities / ops.sum(similarities, axis=1, keepdims=True)


def pkt(teacher: Any, student: Any) -> Any:
    """Return `q log((q + 1e-7) / (p + 1e-7))`, `q` the teacher's neighbor probabilities.

    Args:
        teacher: Vectors of the teacher, `[batch, values]`.
        student: Vectors of the student, of any length.

    Returns:
        Tensor `[batch, batch]`.
    """
    q, p = neighbor_probabilities(teacher), neighbor_probabilities(student)
    return q * (ops.log(q + EPSILON) - ops.log(p + EPSILON))


@keras.saving.register_keras_serializable(package="keras_kd")
class PKT(RelationLoss):
    """Probabilistic knowledge transfer.

    Cosine similarities in the batch, shifted to `(cos + 1) / 2` and divided by the sum of their
    row, are read as probabilities; their divergence from the teacher's is averaged over `batch^2`
    pairs. It is computed in float64, since the terms cancel. A zero vector has a gradient of zero.
    `sample_weight` weighs pairs, by `w_i w_j`; rows are normalized over the whole batch.

    Args:
        name: Name of the loss. Defaults to `"pkt"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.PKT())
    ```

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer,
        2018, arXiv:1803.10837.
    """

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the value of each pair, `[batch, batch]`, in float64."""
        teacher, student = (ops.cast(flatten(x), "float64") for x in (teacher, student))
        return pkt(teacher, student)
