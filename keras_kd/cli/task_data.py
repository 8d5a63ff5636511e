"""The batches that a command trains on or measures with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd.cli.preprocessing import Preprocessing
from keras_kd.cli.sources import Source
from keras_kd.data.batches import shuffled_by_pass

# Prepared images up to this size are kept in memory, so that they are decoded once.
_CACHED_BYTES = 500_000_000
_SHUFFLED = 10_000


def split_indices(count: int, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of training and of held out examples, drawn at random.

    Args:
        count: Number of examples.
        part: The part that is held out, at least 0 and below 1.
        seed: Fixes which.

    Raises:
        ValueError: If `part` is out of range, or leaves nothing to one of the two.
    """
    if not 0.0 <= part < 1.0:
        raise ValueError(f"--validation-split must be at least 0 and below 1. Received: {part:g}.")
    order = np.random.default_rng(seed).permutation(count)
    held_out = round(part * count)
    if part > 0 and not 0 < held_out < count:
        raise ValueError(
            f"--validation-split {part:g} of {count} examples is {held_out}: both parts need some. "
            "Give --validation-data, or another part."
        )
    return order[held_out:], order[:held_out]


def check_classes(
    source: Source, classes: int | None, model: str, known: Sequence[str] | None = None
) -> None:
    """Refuse data whose classes are not the model's outputs.

    Args:
        source: The data.
        classes: Number of classes of the model, or `None` where it is not known.
        model: The model's name.
        known: The names of the classes that the model was trained on. Defaults to `None`: they
            are not known.

    Raises:
        ValueError: If the numbers or the names differ.
    """
    names = source.class_names
    if names is not None and known is not None and list(known) != names:
        raise ValueError(
            f"'{model}' was trained on the classes {', '.join(known)}, but '{source.text}' has "
            f"{', '.join(names)}: they must be the same, in the same order."
        )
    if names is not None and classes is not None and len(names) != classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"'{source.text}' has {len(names)} classes ({shown}), but '{model}' has {classes}: "
            "they must be the same."
        )


def check_same_classes(source: Source, other: Source) -> None:
    """Refuse data whose classes are not those of the training data, in the same order."""
    if other.class_names != source.class_names:
        raise ValueError(
            f"'{other.text}' has the classes {other.class_names}, but '{source.text}' has "
            f"{source.class_names}: they must be the same, in the same order."
        )


def batches(
    source: Source,
    indices: np.ndarray | None,
    preprocessing: Preprocessing,
    batch_size: int,
    shuffle_seed: int | None = None,
    first_pass: int = 0,
) -> Any:
    """Return batches of inputs and class indices.

    Args:
        source: The data.
        indices: The examples. `None` takes all, in order.
        preprocessing: Makes the input.
        batch_size: Examples a batch.
        shuffle_seed: Fixes the order, another one in every pass. Defaults to `None`, the order
            of `indices`.
        first_pass: Number of the first pass. Defaults to `0`.

    Raises:
        ValueError: If the data cannot be made into the model's input.
    """
    import tensorflow as tf

    chosen = np.arange(source.count) if indices is None else indices
    channels = preprocessing.shape[-1] if len(preprocessing.shape) == 3 else 0
    examples = source.select(chosen, channels)
    _check_shape(source, examples.element_spec[0].shape, preprocessing)
    examples = examples.map(preprocessing, num_parallel_calls=2)
    if 4 * math.prod(preprocessing.shape) * len(chosen) <= _CACHED_BYTES:
        examples = examples.cache()
    if shuffle_seed is not None:
        buffer = min(len(chosen), _SHUFFLED)
        examples = shuffled_by_pass(examples, len(chosen), buffer, shuffle_seed, first_pass)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _check_shape(source: Source, shape: Any, preprocessing: Preprocessing) -> None:
    wanted = preprocessing.shape
    given = tuple(shape)
    if len(wanted) == 3:
        rank = len(given)
        colours = given[-1] if rank == 3 else 1
        if rank in (2, 3) and (colours == wanted[-1] or {colours, wanted[-1]} == {1, 3}):
            return
    elif len(given) == len(wanted) and all(
        g in (None, w) for g, w in zip(given, wanted, strict=True)
    ):
        return
    raise ValueError(
        f"'{source.text}' holds examples of shape {given}, but the model takes inputs of shape "
        f"{wanted}."
    )
