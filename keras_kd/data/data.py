"""Going through the data that a file is measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import Batch

_PATIENCE = 2.0  # seconds


def check_ends(data: Any, max_samples: int | None) -> None:
    """Make sure that data has an end, or is not read to it.

    Raises:
        ValueError: If it has none and all of it was asked for.
    """
    import tensorflow as tf

    if max_samples is not None:
        return
    endless = False
    if isinstance(data, tf.data.Dataset):
        endless = bool(data.cardinality() == tf.data.INFINITE_CARDINALITY)
    elif isinstance(data, keras.utils.PyDataset):
        endless = data.num_batches is None
    if endless:
        raise ValueError(
            "`data` never ends (it repeats without a count). Remove `.repeat()`, or give "
            "`max_samples`."
        )


def _first_samples(batch: Batch, count: int) -> Batch:
    """Return the first `count` samples of a batch."""
    if batch.size <= count:
        return batch

    def cut(structure: Any) -> Any:
        return keras.tree.map_structure(
            lambda leaf: np.asarray(leaf)[:count], structure, none_is_leaf=False
        )

    inputs = {name: array[:count] for name, array in batch.inputs.items()}
    return Batch(inputs, cut(batch.x), cut(batch.y), count, cut(batch.sample_weight))


def limited(batches: Iterable[Batch], max_samples: int | None) -> Iterator[Batch]:
    """Hand out batches until they have given `max_samples` samples; `None` hands out all."""
    left = max_samples
    for batch in batches:
        if left is None:
            yield batch
            continue
        batch = _first_samples(batch, left)
        yield batch
        left -= batch.size
        if not left:
            return


def with_progress(batches: Iterable[Batch], title: str, verbose: bool) -> Iterator[Batch]:
    """Hand out batches; on a terminal, a bar counts the samples of what takes some seconds."""
    from tqdm import tqdm

    with tqdm(
        desc=title, unit=" samples", delay=_PATIENCE, leave=False, disable=None if verbose else True
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.size)
