"""RelationLoss: what losses between the samples of a batch share."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.weighting import fits, weighted_mean


class RelationLoss(DistillationLoss):
    """A loss between the relations that the samples of a batch have to each other.

    Features are flattened to one vector per sample; teacher and student may differ in length.
    `call` returns a value for each pair `[batch, batch]` or triple `[batch, batch, batch]` of
    samples, and the loss is their mean. `sample_weight` weighs pairs, by `w_i w_j` (triples by
    `w_i w_j w_k`): `sum_ij w_i w_j l_ij / batch^2`. What is computed over the whole batch first,
    such as a mean distance, is not weighed. Masked positions of a sequence are set to zero on both
    sides.
    """

    equal_shapes = False
    reads_features = True
    mixes_positions = True

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse batches of unequal size."""
        sizes = (teacher.shape[0], student.shape[0])
        if None not in sizes and sizes[0] != sizes[1]:
            raise ValueError(
                f"{type(self).__name__} compares the samples of one batch, but the teacher's "
                f"feature has shape {tuple(teacher.shape)} and the student's "
                f"{tuple(student.shape)}."
            )

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over pairs or triples."""
        values = weigh_pairs(self.call(teacher, student, labels), sample_weight)
        return ops.cast(weighted_mean(values), student.dtype)


def flatten(feature: Any) -> Any:
    """Return a feature `[batch, ...]` as `[batch, values]`."""
    shape = feature.shape[1:]
    values = -1 if any(side is None for side in shape) else math.prod(shape)
    return ops.reshape(feature, (ops.shape(feature)[0], values))


def weigh_pairs(values: Any, sample_weight: Any) -> Any:
    """Return `values`, a value a pair or triple of samples, times the weights of its samples."""
    if sample_weight is None:
        return values
    weights = ops.cast(ops.convert_to_tensor(sample_weight), values.dtype)
    batch = values.shape[0]
    if not fits(tuple(weights.shape[:1]), (batch,)) or (weights.shape[0] == 1 and batch != 1):
        raise ValueError(
            f"`sample_weight` has shape {tuple(weights.shape)}, but the batch has {batch} samples. "
            "Pass one weight per sample."
        )
    if len(weights.shape) > 1:
        weights = ops.mean(weights, axis=tuple(range(1, len(weights.shape))))
    rank = len(values.shape)
    for axis in range(rank):
        values = values * ops.reshape(weights, [-1 if i == axis else 1 for i in range(rank)])
    return values
