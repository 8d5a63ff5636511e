"""AttentionLoss: what losses on the projections of attention layers share."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_kd.losses.shared.base import DistillationLoss, require_equal_sizes
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.losses.shared.weighting import weighted_mean


class AttentionLoss(DistillationLoss):
    """A loss between the queries, keys and values of attention layers, a list on each side.

    Each is `[batch, time, width]` or `[batch, time, heads, head width]`, as the projections of
    `keras.layers.MultiHeadAttention` give them. Padded positions are left out, as keys and as
    queries: those that the Keras mask of a layer excludes, or else those whose sample weight is
    zero, where weights are `[batch, time]`.

    A subclass writes `compare(teacher, student, kept)`, which returns a value for each query,
    `[batch, time]`; `kept` is where keys count, `[batch, 1, 1, time]`, or `None`.
    """

    equal_shapes = False
    several_layers = True
    reads_features = True

    def __call__(
        self, teacher: Any, student: Any, labels: Any = None, sample_weight: Any = None
    ) -> Any:
        """Return the loss of one batch, as `DistillationLoss` does."""
        self._refuse_lists(teacher, student)
        masks = [get_keras_mask(x) for x in (*student, *teacher)]
        mask = next((m for m in masks if m is not None), None)
        if mask is None and sample_weight is not None:
            weights = ops.convert_to_tensor(sample_weight)
            mask = weights > 0 if len(weights.shape) == 2 and weights.shape[1] != 1 else None
        teacher, student = self._prepare(teacher, student)
        self.check_shapes(teacher, student)
        return self.compute_loss(teacher, student, labels, sample_weight, mask)

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over queries."""
        kept = None if mask is None else ops.cast(mask, "bool")[:, None, None, :]
        return weighted_mean(self.compare(teacher, student, kept), sample_weight, mask)

    def compare(self, teacher: Any, student: Any, kept: Any) -> Any:
        """Return a value for each query, `[batch, time]`."""
        raise NotImplementedError(f"{type(self).__name__} must implement compare().")

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse unequal numbers of layers, and what is not the projection of an attention."""
        shapes = [[tuple(x.shape) for x in side] for side in (teacher, student)]
        ranks = {len(shape) for side in shapes for shape in side}
        lengths = {shape[1] for side in shapes for shape in side if len(shape) > 1} - {None}
        if len(shapes[0]) != len(shapes[1]) or not ranks <= {3, 4} or len(lengths) > 1:
            raise ValueError(
                f"{type(self).__name__} compares queries, keys and values of equal length, "
                "[batch, time, width] or [batch, time, heads, width]. Received: teacher "
                f"{shapes[0]}, student {shapes[1]}. Name the projections in a Hint, or use "
                "keras_kd.transformer_hints."
            )
        require_equal_sizes(self, teacher[0], student[0], axes=2)


def scaled_products(first: Any, second: Any) -> Any:
    """Return `first second' / sqrt(width)` by head, `[batch, heads, time, time]`.

    Args:
        first: `[batch, time, heads, width]`.
        second: The same.
    """
    first, second = (ops.transpose(x, (0, 2, 1, 3)) for x in (first, second))
    return ops.matmul(first, ops.transpose(second, (0, 1, 3, 2))) / first.shape[-1] ** 0.5
