"""Datasets that count their passes, and looks at them that do not count."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import tensorflow as tf

_COUNTERS: weakref.WeakValueDictionary[int, tf.Variable] = weakref.WeakValueDictionary()


def pass_counter() -> tf.Variable:
    """Return a variable with the number of whole passes over a dataset, which counts itself."""
    counter = tf.Variable(0, trainable=False, dtype=tf.int64)
    _COUNTERS[id(counter)] = counter
    return counter


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Read a part of datasets without counting a pass: shuffling reads ahead, also to the end."""
    before = [(counter, counter.numpy()) for counter in _COUNTERS.values()]
    try:
        yield
    finally:
        for counter, value in before:
            counter.assign(value)
