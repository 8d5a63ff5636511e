"""Which positions of a sequence or an image count: padding does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_kd.data.numpy_batches import Batch
from keras_kd.measuring.answers import positions_of
from keras_kd.system.user_warning import warn_user


def _positions(output: np.ndarray) -> tuple[int, ...]:
    """Return the sizes of the axes of positions; each integer or boolean is one of them."""
    return positions_of(output, chosen=output.dtype.kind in "iub")


def counted_positions(
    output: np.ndarray, mask: np.ndarray | None, weight: np.ndarray | None
) -> np.ndarray | None:
    """Return which positions of an output count, of its leading axes; `None` if all do.

    Args:
        output: The output, `[batch, ..., units]`, or `[batch, ...]` of integers.
        mask: Its Keras mask, or `None`.
        weight: Its sample weights, or `None`. Weights of whole samples leave no position out.
    """
    positions = _positions(output)
    found = []
    while weight is not None and weight.ndim > len(positions) and weight.shape[-1] == 1:
        weight = weight[..., 0]  # as Keras does
    if mask is not None and mask.shape == positions[: mask.ndim]:
        found.append(mask.astype(bool))
    if weight is not None and weight.ndim > 1 and weight.shape == positions[: weight.ndim]:
        found.append(weight != 0)
    if not found:
        return None
    axes = max(part.ndim for part in found)
    parts = [part.reshape(part.shape + (1,) * (axes - part.ndim)) for part in found]
    return np.logical_and.reduce(np.broadcast_arrays(*parts))


class Positions:
    """Tells which positions of an output count, over batches.

    Args:
        position: The output.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._padded = 0

    def counted(
        self,
        batch: Batch,
        output: np.ndarray,
        masks: Sequence[np.ndarray | None] | None,
        weights: Sequence[np.ndarray | None],
    ) -> np.ndarray | None:
        """Return which positions count, of the leading axes of the output; `None` if all do.

        Args:
            batch: The batch.
            output: The output, `[batch, ..., units]`.
            masks: The Keras mask of every output, or `None` without a model.
            weights: The sample weights of every output.
        """
        mask = None if masks is None else masks[self._position]
        counted = counted_positions(output, mask, weights[self._position])
        if counted is None and len(_positions(output)) > 1:
            self._padded += sum(_padded(array, output) for array in batch.inputs.values())
        return counted

    def warn_of_padding(self, counts: bool) -> None:
        """Warn if every position was counted although the data looks padded.

        Args:
            counts: Whether anything was counted by position.
        """
        if self._padded and counts:
            warn_user(
                f"Every position was counted, although {self._padded} samples of `data` begin or "
                "end in zeros, as padding does: neither a mask of the model nor sample weights of "
                "the positions are known. To leave padding out, pass `model=` a model with a "
                "Keras mask, or data (x, y, sample_weight) with a weight of 0 at each position "
                "of padding."
            )


def _padded(array: np.ndarray, output: np.ndarray) -> int:
    """Return how many samples of a sequence begin or end in two steps of zeros or more."""
    if array.ndim not in (2, 3) or array.shape[1] != output.shape[1] or array.shape[1] < 3:
        return 0
    empty = (array == 0).reshape(*array.shape[:2], -1).all(axis=-1)
    edges = empty[:, :2].all(axis=1) | empty[:, -2:].all(axis=1)
    return int(np.sum(edges & ~empty.all(axis=1)))
