"""When masks are updated: TF-MOT's schedules, read ahead of the training."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.models.tfmot import import_tfmot

_CHUNK = 4096


def default_schedule(
    sparsity: float, steps: int, begin: float, end: float, frequency: int | None
) -> Any:
    """Return a cubic decay from no zeros to `sparsity`.

    Args:
        sparsity: The final fraction of zeros.
        steps: Number of steps of the training.
        begin: Fraction of the training after which pruning begins.
        end: Fraction of the training after which the masks are fixed.
        frequency: Steps between two updates, or `None` for about 100 updates.
    """
    # TF-MOT counts steps from 1.
    first = min(1 + int(begin * steps), steps)
    last = min(max(int(end * steps), first), steps)
    frequency = frequency or max(1, (last - first) // 100)
    # The decay must be evaluated at its very end: the end is a whole number of updates away.
    last = first + (last - first) // frequency * frequency
    schedules = import_tfmot().sparsity.keras
    if last == first:
        return schedules.ConstantSparsity(sparsity, first, first, frequency)
    return schedules.PolynomialDecay(0.0, sparsity, first, last, frequency=frequency)


def sparsity_at(schedule: Any, step: int) -> float:
    """Return the sparsity that a TF-MOT schedule asks for at a step, counted from 1."""
    return float(np.asarray(schedule(tf.constant(step, tf.int64))[1]))


def final_sparsity(schedule: Any, steps: int) -> float:
    """Return the sparsity that a TF-MOT schedule leads to.

    Args:
        schedule: The schedule.
        steps: Number of steps of the training, for your own schedules.
    """
    for attribute in ("final_sparsity", "target_sparsity"):
        if hasattr(schedule, attribute):
            return float(getattr(schedule, attribute))
    return sparsity_at(schedule, max(steps, 1))


class PruningTimes:
    """The steps at which a schedule updates the masks.

    Args:
        schedule: A TF-MOT schedule.
    """

    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule
        self._chunks: dict[int, list[int]] = {}

    def last_in(self, first: int, last: int) -> int | None:
        """Return the last step from `first` to `last` with an update, or `None`."""
        times = [time for time in self._times(first, last) if first <= time <= last]
        return times[-1] if times else None

    def first_in(self, first: int, last: int) -> int | None:
        """Return the first step from `first` to `last` with an update, or `None`."""
        return next((time for time in self._times(first, last) if first <= time <= last), None)

    def _times(self, first: int, last: int) -> list[int]:
        times: list[int] = []
        for chunk in range(first // _CHUNK, last // _CHUNK + 1):
            if chunk not in self._chunks:
                self._chunks[chunk] = self._evaluate(chunk * _CHUNK, (chunk + 1) * _CHUNK)
            times += self._chunks[chunk]
        return times

    def _evaluate(self, begin: int, end: int) -> list[int]:
        steps = tf.range(max(begin, 1), end, dtype=tf.int64)
        try:
            # The schedules of TF-MOT take many steps at once as well as one.
            updates = np.asarray(self._schedule(steps)[0])
        except Exception:
            updates = np.asarray(False)
        if updates.shape != steps.shape:
            updates = np.array([bool(self._schedule(step)[0]) for step in steps])
        return [int(step) for step in steps.numpy()[updates]]
