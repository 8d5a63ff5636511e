"""Whether a loss is computed in training."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_TRAINING = contextvars.ContextVar("keras_kd_training", default=True)


def is_training() -> bool:
    """Return whether the loss is computed in training: what is drawn and remembered may change."""
    return _TRAINING.get()


@contextlib.contextmanager
def in_phase(training: bool) -> Iterator[None]:
    """Compute losses in training, or not."""
    before = _TRAINING.set(training)
    try:
        yield
    finally:
        _TRAINING.reset(before)
