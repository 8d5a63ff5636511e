"""RKD: distances and angles together."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.rkd_angle import RKDAngle
from keras_kd.losses.rkd_distance import RKDDistance
from keras_kd.losses.shared.relation import RelationLoss
from keras_kd.system.arguments import scheduled


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

    scheduled_arguments = ("distance_weight", "angle_weight")

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
