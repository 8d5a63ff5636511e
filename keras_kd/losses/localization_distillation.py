"""LocalizationDistillation: the distributions of a detector's box edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.base import DistillationLoss, require_equal_sizes
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample
from keras_kd.system.arguments import number, scheduled


def localization_distillation(
    teacher: Any, student: Any, bins: int, temperature: float = 10.0
) -> Any:
    """Return `T^2 * KL / bins` of the distributions of a box's edges, averaged over the edges.

    Args:
        teacher: Logits of the teacher's edges, `[..., edges * bins]`.
        student: Logits of the student's edges, of the same shape.
        bins: Number of bins of an edge.
        temperature: `T`. Defaults to `10.0`.

    Returns:
        Tensor `[...]`.
    """
    teacher, student = (
        ops.reshape(x, (*ops.shape(x)[:-1], x.shape[-1] // bins, bins)) for x in (teacher, student)
    )
    return ops.mean(kl_divergence(teacher, student, temperature), axis=-1) / bins


@keras.saving.register_keras_serializable(package="keras_kd")
class LocalizationDistillation(DistillationLoss):
    """Localization distillation, for detectors whose box edges are distributions over bins.

    Such heads (generalized focal loss, YOLOv8 and later) give `4 * bins` logits per position, bins
    last. For each edge the Kullback-Leibler divergence from the teacher's softened distribution is
    taken, and averaged over edges. Positions are weighed by the teacher's confidence, the largest
    of its class probabilities, and divided by the sum of the weights: `sum(w l) / sum(w)`.

    As in the authors' code, the divergence is divided by `bins`; the paper sums. That code looks
    only at positions that are assigned to an object and takes the confidence from the student;
    here no assignment is needed, since the teacher's confidence is near zero elsewhere.

    The layers are given as lists: of the teacher the edges and the classes, of the student the
    edges. Without the teacher's classes all positions count alike.

    Args:
        bins: Number of bins of an edge, at least 2 (`reg_max + 1` of generalized focal loss).
        temperature: `T`, above 0; higher is softer. Defaults to `10.0`.
        from_logits: Whether the teacher's classes are logits; sigmoid probabilities otherwise.
            Defaults to `True`.
        name: Name of the loss. Defaults to `"localization_distillation"`.

    Raises:
        ValueError: If an argument is out of range; when called, if the shapes do not fit.

    Example:

    ```python
    hint = keras_kd.Hint(
        ["boxes", "classes"], ["boxes"], loss=keras_kd.losses.LocalizationDistillation(bins=16)
    )
    ```

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, 2022, arXiv:2102.12252.
    """

    equal_shapes = False
    several_layers = True
    reads_features = True

    def __init__(
        self,
        bins: int,
        temperature: float = 10.0,
        from_logits: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        owner = "LocalizationDistillation"
        self.bins = number("bins", bins, least=2, whole=True, owner=owner)
        self.temperature = scheduled("temperature", temperature, above=0, owner=owner)
        self.from_logits = from_logits

    def check_shapes(self, teacher: Sequence[Any], student: Sequence[Any]) -> None:
        """Refuse layers that are not edges of equal shapes, with classes at the same positions."""
        shapes = [tuple(x.shape) for x in (*teacher, *student)]
        if not 1 <= len(teacher) <= 2 or len(student) != 1:
            raise ValueError(
                "LocalizationDistillation reads the edges and the classes of the teacher, and the "
                f"edges of the student. Received: {len(teacher)} teacher layers and {len(student)} "
                'student layers. Use Hint(["boxes", "classes"], ["boxes"], ...).'
            )
        edges = shapes[0]
        if edges != shapes[-1] or not edges[-1] or edges[-1] % self.bins:
            raise ValueError(
                f"LocalizationDistillation(bins={self.bins}) compares edges of equal shape "
                f"[batch, ..., edges * bins]. Received: teacher {edges}, student {shapes[-1]}."
            )
        require_equal_sizes(self, teacher[0], student[0])
        if len(teacher) == 2 and shapes[1][:-1] != edges[:-1]:
            raise ValueError(
                "LocalizationDistillation weighs the edges by the classes at the same positions. "
                f"Received: edges of shape {edges}, classes of shape {shapes[1]}."
            )

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the mean weighed by the confidence of the positions that count."""
        values, confidence = self._values(teacher, student)
        if sample_weight is not None:
            sample_weight = weights_by_sample(sample_weight, values)
        if confidence is None:
            return weighted_mean(values, sample_weight, mask)
        # Zero confidence everywhere is zero loss.
        total = ops.maximum(weighted_mean(confidence, mask=mask), 1e-12)
        return weighted_mean(values * confidence, sample_weight, mask) / total

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return values `[batch, ...]` of which the mean is the loss."""
        values, confidence = self._values(teacher, student)
        if confidence is None:
            return values
        return values * confidence / ops.maximum(ops.mean(confidence), 1e-12)

    def _values(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        """Return the loss and the confidence of each position; `None` without classes."""
        values = localization_distillation(teacher[0], student[0], self.bins, self.temperature)
        if len(teacher) < 2:
            return values, None
        confidence = ops.max(teacher[1], axis=-1)
        return values, ops.sigmoid(confidence) if self.from_logits else confidence
