"""RKDAngle: angles between the samples of a batch."""

from __future__ import annotations

from typing import Any

import keras

from keras_kd.losses.shared.pairwise import angles, huber
from keras_kd.losses.shared.relation import RelationLoss, flatten


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
