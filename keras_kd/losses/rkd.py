"""RKD: relations between the samples of a batch, by distances, by angles and by both."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.pairwise import angles, distances, huber
from keras_kd.losses.shared.relation import RelationLoss, flatten
from keras_kd.system.arguments import scheduled


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


def rkd_angle(teacher: Any, student: Any) -> Any:
    """Return the Huber distance of the cosines at every vertex.

    Args:
        teacher: Vectors of the teacher, `[batch, values]`.
        student: Vectors of the student, of any length.

    Returns:
        Tensor `[batch, batch, batch]`, the vertex first.
    """
    return huber(angles(teacher) - angles(student))


@keras.saving.register_keras_serializable(package="keras_kd")
class RKDAngle(RelationLoss):
    """Relational knowledge distillation, by angles.

    The cosines of the angles that each two samples form at a third are compared with the Huber
    loss (delta 1); the mean over `batch^3` triples, degenerate ones included. It takes memory of
    `batch^2` times the length of a feature: use it on embeddings. `sample_weight` weighs triples,
    by `w_i w_j w_k`.

    Args:
        name: Name of the loss. Defaults to `"rkd_angle"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.RKDAngle())
    ```

    Reference:
        Park et al., Relational Knowledge Distillation, 2019, arXiv:1904.05068.
    """

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the value of each triple, `[batch, batch, batch]`."""
        return rkd_angle(flatten(teacher), flatten(student))


@keras.saving.register_keras_serializable(package="keras_kd")
class RKD(RelationLoss):
    """Relational knowledge distillation: the weighted sum of `RKDDistance` and `RKDAngle`.

    Args:
        distance_weight: Weight of the distances. Defaults to `25.0`.
        angle_weight: Weight of the angles. Defaults to `50.0`.
        name: Name of the loss. Defaults to `"rkd"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.RKD())
    ```

    Reference:
        Park et al., Relational Knowledge Distillation, 2019, arXiv:1904.05068; the weights are
        RepDistiller's.
    """

    def __init__(
        self, distance_weight: float = 25.0, angle_weight: float = 50.0, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.distance_weight = scheduled("distance_weight", distance_weight, least=0, owner="RKD")
        self.angle_weight = scheduled("angle_weight", angle_weight, least=0, owner="RKD")

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted sum of the two losses."""
        arguments = (teacher, student, labels, sample_weight, mask)
        distance = RKDDistance().compute_loss(*arguments)
        angle = RKDAngle().compute_loss(*arguments)
        return self.distance_weight * distance + self.angle_weight * angle

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the unweighted loss, a scalar."""
        return ops.mean(self.compute_loss(teacher, student, labels, None, None))
