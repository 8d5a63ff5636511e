"""The kinds of data that compression takes, as batches."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def as_batches(data: Any, argument: str, shuffle: bool = False) -> Any:
    """Return `data` as batches.

    Args:
        data: A `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, or a tuple of arrays
            `(x, y)` or `(x, y, sample_weight)`, which is cut into batches of 32.
        argument: The name under which the user gave it.
        shuffle: Whether to shuffle arrays. Defaults to `False`.

    Raises:
        TypeError: If it is of another kind.
    """
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        return data
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        dataset = tf.data.Dataset.from_tensor_slices(tuple(data))
        if shuffle:
            dataset = dataset.shuffle(min(10_000, max(1, len(dataset))))
        return dataset.batch(32)
    raise TypeError(
        f"`{argument}` must be a tf.data.Dataset of batches, a keras.utils.PyDataset or a tuple "
        f"of arrays (x, y), but received {type(data).__name__}."
    )
