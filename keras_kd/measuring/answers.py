"""What an output answers, and what the labels say it should."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.data.labels import class_labels
from keras_kd.data.numpy_batches import safe_name
from keras_kd.models.probabilities import PROBABILITIES, look_like_probabilities
from keras_kd.system.names import one_of

CLASSIFICATION, MULTILABEL, REGRESSION = "classification", "multilabel", "regression"
TASKS = (CLASSIFICATION, MULTILABEL, REGRESSION)


def check_task(task: str | None) -> None:
    """Make sure that a task is one of those that are known, or left open.

    Raises:
        ValueError: If it is not.
    """
    one_of("task", task, [*TASKS, None])


def answers(output: np.ndarray, task: str, threshold: float, chosen: bool = False) -> np.ndarray:
    """Return the class that every sample or position is given.

    Args:
        output: An output, `[batch, ..., units]`, or `[batch]` for one number per sample.
        task: `"classification"`, or `"multilabel"` for an answer of every unit.
        threshold: Where the answer of one unit changes from 0 to 1.
        chosen: Whether its values are class indices; see `are_answers`. Defaults to
            `False`.

    Returns:
        Class indices of shape `[batch, ...]`, or of the output's shape if multi-label or chosen.
    """
    if chosen:
        return (output[..., 0] if _is_one_unit(output) else output).astype(np.int64)
    if task == MULTILABEL or output.ndim < 2:
        return (output > threshold).astype(np.int64)
    if output.shape[-1] == 1:
        return (output[..., 0] > threshold).astype(np.int64)
    return np.argmax(output, axis=-1)


def are_answers(output: np.ndarray, task: str, labels: np.ndarray | None = None) -> bool:
    """Return whether a model chooses the classes itself: its output holds integers.

    Args:
        output: An output, `[batch, ..., units]`, a map of classes `[batch, ...]`, or `[batch]`.
        task: What it is for.
        labels: The labels, or `None`. If they give one class for all units, integers are scores.
    """
    if output.dtype.kind not in "iub":
        return False
    if output.ndim < 2 or _is_one_unit(output):
        return True
    if output.dtype.kind == "b" or task == MULTILABEL:
        return False
    return labels is None or not _of_all_units(labels, output)


def positions_of(output: np.ndarray, chosen: bool) -> tuple[int, ...]:
    """Return the sizes of the axes of samples and positions, all but that of the units.

    Args:
        output: An output, `[batch, ..., units]`, a map of classes `[batch, ...]`, or `[batch]`.
        chosen: Whether its numbers are classes or answers themselves, and not one per unit.
    """
    units = output.ndim > 1 and (not chosen or _is_one_unit(output))
    return output.shape[:-1] if units else output.shape


def are_amounts(output: np.ndarray, task: str, chosen: bool) -> bool:
    """Return whether errors of an output mean something: not those of classes, nor of yes and no.

    Args:
        output: An output.
        task: What it is for.
        chosen: Whether its values are class indices; see `are_answers`.
    """
    return task == REGRESSION or not (chosen or output.dtype.kind == "b")


def _is_one_unit(output: np.ndarray) -> bool:
    return output.ndim > 1 and output.shape[-1] == 1


def _of_all_units(labels: np.ndarray, output: np.ndarray) -> bool:
    """Return whether labels give one class for all units: its index, or one-hot."""
    if labels.shape == output.shape:
        return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())
    return labels.shape in (output.shape[:-1], (*output.shape[:-1], 1))


def places_in_tuple(names: Sequence[str]) -> list[int]:
    """Return the places of a file's outputs in a tuple in the model's order.

    TensorFlow's own converter numbers the outputs (`Identity`, `Identity_1`), and writes them in
    another order. Other names stand in the model's order.
    """
    ends = [re.fullmatch(r"(.*?)(?:[_:](\d+))?", name) for name in names]
    found = {int(end[2] or 0): end[1] for end in ends if end}
    in_order = list(range(len(names)))
    if sorted(found) != in_order or len(set(found.values())) > 1:
        return in_order
    return list(found)


def by_output(
    values: Any,
    names: Sequence[str],
    what: str,
    others: bool = False,
    alone: int | None = 0,
    places: Sequence[int] | None = None,
) -> list[np.ndarray | None]:
    """Return the labels or sample weights of every output, `None` where there are none.

    Args:
        values: What the data gives: an array, or a dict or a tuple by output.
        names: The file's outputs.
        what: What they are, for error messages.
        others: Whether a dict may hold something else, or nothing else. Defaults to `False`.
        alone: The position of the output that one array is of, `None` for all. Defaults to `0`.
        places: Where each output stands in a tuple. Defaults to `None`: as the names tell.

    Raises:
        ValueError: If they do not fit the outputs.
    """
    values = class_labels(values)
    if isinstance(values, Mapping):
        named = {safe_name(str(key)): value for key, value in values.items()}
        unknown = sorted(set(named) - {safe_name(name) for name in names})
        if unknown and len(names) > 1 and not others:
            raise ValueError(f"`data` gives {what} for {unknown}; the file's outputs are {names}.")
        found = [named.get(safe_name(name)) for name in names]
        if all(value is None for value in found) and not others:
            raise ValueError(f"`data` gives {what} for {sorted(named)}, but not for '{names[0]}'.")
        return [_array(value) for value in found]
    if isinstance(values, (tuple, list)) and not hasattr(values, "shape"):
        if len(values) != len(names):
            raise ValueError(
                f"`data` gives {len(values)} arrays of {what} and the file has {len(names)} "
                "outputs."
            )
        places = places_in_tuple(names) if places is None else places
        return [_array(values[place]) for place in places]
    return [_array(values) if alone in (i, None) else None for i in range(len(names))]


def _array(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value)


def class_indices(
    labels: np.ndarray, output: np.ndarray, name: str, chosen: bool = False
) -> np.ndarray:
    """Return labels as class indices, one for every sample or position.

    Args:
        labels: Class indices of shape `[batch, ...]` or `[batch, ..., 1]`, or one-hot or soft
            labels of the output's shape.
        output: The output which they are about, `[batch, ..., units]` or `[batch]`.
        name: Its name, for error messages.
        chosen: Whether the output's numbers are classes. Defaults to `False`.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they do not fit the output.
    """
    positions = positions_of(output, chosen)
    classes = 1 if positions == output.shape else output.shape[-1]
    if labels.dtype.kind not in "fiub":
        raise TypeError(f"`data` gives labels of type {labels.dtype}. Pass class indices.")
    if labels.shape == output.shape and classes > 1:
        totals = labels.astype(np.float64).sum(axis=-1)
        if labels.min() < 0 or not np.allclose(totals, 1.0, atol=1e-3):
            raise ValueError(
                "`data` has labels of the output's shape that are not one-hot: they must not "
                "be negative and must sum to 1. Accuracy needs one class per sample. Pass "
                f'`task="{MULTILABEL}"` if every unit is a separate answer, or '
                f'`task="{REGRESSION}"` and `metrics=["mae"]`.'
            )
        return np.argmax(labels, axis=-1)
    if labels.shape == (*positions, 1):
        labels = labels[..., 0]
    if labels.shape != positions:
        raise ValueError(
            f"`data` gives labels of shape {labels.shape} for an output of shape "
            f"{output.shape}. Pass class indices of shape {positions}"
            f"{'' if chosen else f' or one-hot labels of shape {output.shape}'}."
        )
    indices = labels.astype(np.int64)
    if not np.array_equal(indices, labels):
        raise ValueError(
            "`data` has labels that are not whole numbers. Accuracy needs class indices; for "
            f'regression pass `task="{REGRESSION}"` and `metrics=["mae"]`.'
        )
    if chosen:
        return indices
    highest = max(classes, 2) - 1
    if indices.size and (indices.min() < 0 or indices.max() > highest):
        wrong = indices[(indices < 0) | (indices > highest)].flat[0]
        raise ValueError(
            f"`data` gives the label {wrong}, which is out of range: the output "
            f"'{name}' has {classes} unit(s), for labels 0 to {highest}."
        )
    return indices


def unit_labels(labels: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Return multi-label labels as integers.

    Args:
        labels: 0 or 1 for every unit, of the output's shape.
        output: The output which they are about.

    Raises:
        ValueError: If their shape or a value is another.
    """
    if labels.shape != output.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f'With `task="{MULTILABEL}"`, labels are 0 or 1 for every unit, of shape '
            f"{output.shape}. `data` gives labels of shape {labels.shape} and type {labels.dtype}"
            f"{'' if labels.shape != output.shape else ', with other values'}."
        )
    return labels.astype(np.int64)


def task_of(
    labels: np.ndarray | None, output: np.ndarray, measures_errors: bool, sigmoid: bool
) -> str:
    """Return what the first batch says an output is for.

    Args:
        labels: Its labels, or `None`.
        output: The output, `[batch, ..., units]` or `[batch]`.
        measures_errors: Whether metrics were asked for, of errors (as the mean absolute one) only.
        sigmoid: Whether the output is one of a sigmoid.

    Returns:
        `"regression"` with metrics of errors only; `"multilabel"` for a sigmoid of several units
        with labels of its shape, all 0 or 1, of which a row does not hold exactly one 1, and for
        yes and no of several units without labels of one class; else `"classification"`.
    """
    if measures_errors:
        return REGRESSION
    several = output.ndim > 1 and output.shape[-1] > 1
    if several and output.dtype.kind == "b":
        return MULTILABEL if labels is None or labels.shape == output.shape else CLASSIFICATION
    if sigmoid and several and labels is not None and labels.shape == output.shape:
        zeros_and_ones = labels.dtype.kind in "fiub" and np.isin(labels, (0, 1)).all()
        if zeros_and_ones and (labels.sum(axis=-1) != 1).any():
            return MULTILABEL
    return CLASSIFICATION


def likely_task(
    output: np.ndarray,
    labels: np.ndarray | None,
    end: str | None,
    inputs: Sequence[np.ndarray],
    of_errors: bool,
    first: bool,
) -> str:
    """Return what an output is for where nobody said so.

    Args:
        output: The output for a first batch, `[batch, ..., units]` or `[batch]`.
        labels: Its labels, or `None`.
        end: How it ends, as `keras_kd.models.probabilities.last_activation`.
        inputs: The floating-point inputs of the batch.
        of_errors: Whether the model was compiled with a loss of errors, such as the squared one.
        first: Whether it is the first output.

    Returns:
        What labels of classes say, and classification for integers that are the classes
        themselves; `"regression"` for other labels and losses of errors, for outputs of an input's
        shape (autoencoders), of rows of length 1 (embeddings), of one unit on one side of 0, and
        for further outputs that are not probabilities; else `"classification"`.
    """
    if labels is not None and labels.dtype.kind not in "fiub":
        labels = None
    if output.dtype.kind == "b" and labels is None:
        return task_of(labels, output, False, sigmoid=False)
    if are_answers(output, CLASSIFICATION, labels):
        whole = labels is None or bool(np.equal(labels, np.floor(labels)).all())
        return CLASSIFICATION if whole else REGRESSION
    if labels is not None:
        if not _are_classes(labels, output, end):
            return REGRESSION
        return task_of(labels, output, False, sigmoid=True)
    if of_errors:
        return REGRESSION
    if end in PROBABILITIES or (end is None and look_like_probabilities(output)):
        return CLASSIFICATION
    several = output.ndim > 1 and output.shape[-1] > 1
    if not first or any(x.shape == output.shape for x in inputs):
        return REGRESSION
    if several:
        norms = np.linalg.norm(output.astype("float64"), axis=-1)
        return REGRESSION if np.allclose(norms, 1.0, atol=1e-2) else CLASSIFICATION
    return CLASSIFICATION if output.min() < 0.0 < output.max() else REGRESSION


def _are_classes(labels: np.ndarray, output: np.ndarray, end: str | None) -> bool:
    values = labels.astype("float64")
    units = output.shape[-1] if output.ndim > 1 else 1
    if labels.shape == output.shape and units > 1:
        sums_to_one = bool(np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))
        return bool(np.isin(values, (0, 1)).all()) or (values.min() >= 0 and sums_to_one)
    if units > 1:
        return bool((values == np.floor(values)).all())
    soft = end in PROBABILITIES and values.min() >= 0.0 and values.max() <= 1.0
    return soft or bool(np.isin(values, (0, 1)).all())
