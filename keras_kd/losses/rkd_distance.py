"""RKDDistance: relative distances between the samples of a batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.pairwise import distances, huber
from keras_kd.losses.shared.relation import RelationLoss, flatten


def relative_distances(x: Any) -> Any:
    """Return the distances `[batch, batch]`, divided by their mean off the diagonal."""
    lengths = distances(x)
    batch = ops.cast(ops.shape(x)[0], lengths.dtype)
    mean = ops.sum(lengths) / ops.maximum(batch * (batch - 1.0), 1.0)
    return lengths / ops.where(mean > 0, mean, ops.ones_like(mean))


def rkd_distance(teacher: Any, student: Any) -> Any:
    """Return the Huber distance of the relative distances.

    Args:
        teacher: Vectors of the teacher, `[batch, values]`.
        student: Vectors of the student, of any length.

    Returns:
        Tensor `[batch, batch]`, its diagonal zero.
    """
    return huber(relative_distances(teacher) - relative_distances(student))


@keras.saving.register_keras_serializable(package="keras_kd")
class RKDDistance(RelationLoss):
    """Relational knowledge distillation, by distances.

    The Euclidean distances in a batch, divided by their mean, are compared with the Huber loss
    (delta 1); the mean over `batch^2` pairs, of which the diagonal is zero. On a batch of two it
    is always zero. It is computed in float64. `sample_weight` weighs pairs, by `w_i w_j`; the mean
    distance is that of the whole batch.

    Args:
        name: Name of the loss. Defaults to `"rkd_distance"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.RKDDistance())
    ```

    Reference:
        Park et al., Relational Knowledge Distillation, 2019, arXiv:1904.05068.
    """

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the value of each pair, `[batch, batch]`, in float64."""
        teacher, student = (ops.cast(flatten(x), "float64") for x in (teacher, student))
        return rkd_distance(teacher, student)
