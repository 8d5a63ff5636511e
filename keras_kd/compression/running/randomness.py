"""What is drawn at random in a stage, apart from what was drawn before it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw from generators that begin with `seed`, and put the caller's back at the end.

    Keras and `tf_keras` take the seeds of new weights and random layers from Python's generator.
    What the process did before, such as a module that was imported already, changes nothing here.

    Args:
        seed: The seed.
    """
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def stage_seed(seed: int, index: int, attempt: int) -> int:
    """Return the seed of an attempt at a stage of a run with the seed `seed`."""
    return (seed + 1000 * index + attempt) % 2**32
