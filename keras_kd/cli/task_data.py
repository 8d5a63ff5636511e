"""The batches that a command trains on or measures with."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.cli.preprocessing import Preprocessing
from keras_kd.cli.sources import Source, open_source
from keras_kd.data.batches import shuffled_by_pass
from keras_kd.system.user_warning import warn_user

# Prepared images up to this size are kept in memory, so that they are decoded once.
_CACHED_BYTES = 500_000_000
_SHUFFLED = 10_000
# What is divided by this or more is pixels, not numbers up to 1.
_PIXELS = 100.0
_HELD_OUT = "validation"  # the split of validation data that are given by a name alone
# What trainings of earlier versions had, whose notes do not say it.
_DEFAULTS = {"validation_data": None, "validation_split": 0.1, "seed": 0}


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


def measured_on(settings: Mapping[str, Any]) -> tuple[Any, str, str | None]:
    """Return the data that `measure` reads by its settings.

    Returns:
        A text and the default split for `open_source`; and `"train"` or `"validation"` for a part
        of it that `validation_split` and `seed` tell, else `None`.
    """
    part, held_out = settings.get("part"), settings.get("validation_data")
    if part == "validation" and held_out is not None:
        return held_out, _HELD_OUT, None
    split = "test" if part is None else "train"
    divided = part in ("train", "validation") and held_out is None
    return settings.get("data"), split, part if divided else None


def open_validation(text: str) -> Source:
    """Return the source of `--validation-data`."""
    return open_source(text, _HELD_OUT)


def trainings_of(notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the data of every training of a model, and what each held out, by its notes."""
    if "trained_on" in notes:
        return list(notes["trained_on"])
    # Notes of earlier versions do not say what was held out.
    return [] if notes.get("data") is None else [{"data": notes["data"]}]


def training_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of the training that the settings describe, and what it holds out."""
    names = ("data", "validation_data", "validation_split", "seed")
    return {name: settings[name] for name in names}


def training_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those notes of a model that say what it was trained on, for a file made from it."""
    return {name: notes[name] for name in ("data", "trained_on") if name in notes}


def _trained_on(
    notes: Mapping[str, Any], source: Source, settings: Mapping[str, Any]
) -> tuple[np.ndarray, set[tuple[float, int]]]:
    """Return which examples a model was trained on, and how each training divided the data."""
    seen = np.zeros(source.count, bool)
    divisions = set()
    for training in trainings_of(notes):
        if _same_data(training["data"], source):
            values = {**_DEFAULTS, **settings, **training}
            part = 0.0 if values["validation_data"] is not None else values["validation_split"]
            seen[split_indices(source.count, part, values["seed"])[0]] = True
            divisions.add((part, values["seed"]))
    return seen, divisions


def calibration_order(notes: Mapping[str, Any], source: Source) -> np.ndarray:
    """Return the positions of examples to calibrate with, in a random order.

    None that the model's training held out is among them, so that `measure --part validation`
    measures on others.

    Args:
        notes: The model's notes.
        source: The data.
    """
    seen, _ = _trained_on(notes, source, {})
    positions = np.flatnonzero(seen) if seen.any() else np.arange(source.count)
    # Another generator than that of `split_indices`, whose first positions are held out.
    return np.random.default_rng([0, 1]).permutation(positions)


def warn_of_training_data(
    path: str,
    notes: Mapping[str, Any],
    source: Source,
    indices: np.ndarray | None,
    settings: Mapping[str, Any],
) -> int:
    """Warn where a model was trained on examples that it is measured on, and return how many.

    Args:
        path: The model's file.
        notes: Its notes.
        source: The data to measure on.
        indices: Which examples of it, by `--validation-split` and `--seed` of the command. `None`
            takes all.
        settings: Those of the command. They stand for what notes of earlier versions do not say.
    """
    measured = np.arange(source.count) if indices is None else indices
    seen, divisions = _trained_on(notes, source, settings)
    if not seen[measured].any():
        return 0
    advice = "Give other data."
    if len(divisions) == 1 and not seen.all():
        part, seed = divisions.pop()
        options = f"--validation-split {part:g} --seed {seed}"
        advice = f"{options} is what was held out."
        if indices is None:  # by a command that has no such options, or does not divide these data
            words = (
                f"keras-kd measure --data {shlex.quote(source.text)} --part validation {options}"
            )
            advice = f"`{words}` measures on what was held out."
    count = int(seen[measured].sum())
    warn_user(
        f"'{path}' was trained on {count:,} of the {len(measured):,} examples: this is not "
        f"accuracy on unseen data. {advice}"
    )
    return count


def _same_data(text: str, source: Source) -> bool:
    """Whether a source is the training data of this name."""
    if source.split is None:
        return os.path.realpath(text) == os.path.realpath(source.text)
    named = source.text.endswith(f":{source.split}")
    whole = source.text if named else f"{source.text}:{source.split}"
    return whole in (text, f"{text}:train")


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
        batch_size: Examples per batch.
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
    _check_scale(source, preprocessing)
    examples = examples.map(preprocessing, num_parallel_calls=2)
    if 4 * math.prod(preprocessing.shape) * len(chosen) <= _CACHED_BYTES:
        examples = examples.cache()
    if shuffle_seed is not None:
        buffer = min(len(chosen), _SHUFFLED)
        examples = shuffled_by_pass(examples, len(chosen), buffer, shuffle_seed, first_pass)
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _check_scale(source: Source, preprocessing: Preprocessing) -> None:
    """Refuse numbers that are scaled to 1 already where pixels are to be scaled."""
    largest = getattr(source, "largest", None)
    if largest is not None and largest <= 1.0 and abs(preprocessing.scale) >= _PIXELS:
        raise ValueError(
            f"'{source.text}' holds numbers up to {largest:g}, and the model's input is pixel / "
            f"{preprocessing.scale:g}: they would be scaled twice. Give pixels from 0 to 255."
        )


def _check_shape(source: Source, shape: Any, preprocessing: Preprocessing) -> None:
    wanted = preprocessing.shape
    given = tuple(shape)
    if len(wanted) == 3:
        rank = len(given)
        colors = given[-1] if rank == 3 else 1
        if rank in (2, 3) and (colors == wanted[-1] or {colors, wanted[-1]} == {1, 3}):
            return
    elif len(given) == len(wanted) and all(
        g in (None, w) for g, w in zip(given, wanted, strict=True)
    ):
        return
    raise ValueError(
        f"'{source.text}' holds examples of shape {given}, but the model takes inputs of shape "
        f"{wanted}."
    )
