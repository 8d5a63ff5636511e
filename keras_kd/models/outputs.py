"""Which outputs a model has, and whether labels fit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.data.finite import check_finite, is_finite
from keras_kd.data.numpy_batches import safe_name
from keras_kd.system.user_warning import warn_user


def output_names(student: Any) -> list[str] | None:
    """Return the names of a student's outputs, or `None` where it does not tell them."""
    return getattr(student, "output_names", None)


def name_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """Give a Keras model's outputs names: dict keys, layer names, or `output_0`, `output_1`, ..."""
    if isinstance(outputs, Mapping):
        flat = keras.tree.flatten(dict(outputs))
        if len(flat) == len(outputs):
            return {str(key): outputs[key] for key in outputs}
    else:
        flat = keras.tree.flatten(outputs)
        names = list(getattr(model, "output_names", None) or ())
        if len(names) == len(flat) and len({safe_name(n) for n in names}) == len(flat):
            return dict(zip(names, flat, strict=True))
    return {f"output_{i}": tensor for i, tensor in enumerate(flat)}


def check_labels(loss: Any, labels: Any, classes: int | None) -> None:
    """Refuse labels that `loss` cannot read.

    Args:
        loss: The student's loss.
        labels: Labels of some or all examples.
        classes: Size of the last axis of the student's output.

    Raises:
        ValueError: If labels are not numbers; if sparse ones lie outside `0 ... classes - 1` or are
            one-hot, or one-hot labels have another number of classes; if they are not whole
            numbers; if a loss of Keras would read NaN or infinite values.
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"Labels must be numbers. Received: labels of type {values.dtype}, such as "
            f"{values.flat[0] if values.size else None!r}. Give each class a number, from 0."
        )
    loss = keras.losses.get(loss)
    kind = loss if hasattr(loss, "__name__") else type(loss)  # of a function, itself
    known = kind.__module__.split(".")[0] == "keras"
    if known or is_finite(values):
        advice = "Remove such examples, or give them a sample weight of 0 and another label."
        check_finite(values, "labels", advice)
    else:
        warn_user(
            f"The labels hold NaN or infinite values, which {loss!r} has to leave out itself."
        )
    if classes is None or values.size == 0:
        return
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        if _is_one_hot(values, classes):
            raise ValueError(
                f"Labels of shape {values.shape} are one-hot, but SparseCategoricalCrossentropy "
                "reads class numbers. Use keras.losses.CategoricalCrossentropy(from_logits=True), "
                "or give y.argmax(-1) as the labels."
            )
        ignored = loss.get_config().get("ignore_class")
        values = values[values != ignored] if ignored is not None else values
        broken = values[values != np.floor(values)] if values.dtype.kind == "f" else values[:0]
        if broken.size:
            raise ValueError(
                "SparseCategoricalCrossentropy reads class numbers, but the labels are not whole "
                f"numbers. Received: label={broken.flat[0]}. Give class numbers, or use a loss on "
                "such values, such as keras.losses.MeanSquaredError()."
            )
        wrong = values[(values < 0) | (values >= classes)]
        if wrong.size:
            label = wrong.flat[0]
            advice = (
                f"use a student with {int(values.max()) + 1} outputs"
                if label >= classes
                else f"if {label} means no label, use keras.losses."
                f"SparseCategoricalCrossentropy(from_logits=True, ignore_class={label})"
            )
            raise ValueError(
                f"Labels must lie in 0 ... {classes - 1}, because the student has {classes} "
                f"outputs, but the data holds {label}. Correct the labels, or {advice}."
            )
    elif isinstance(loss, keras.losses.CategoricalCrossentropy) and values.shape[-1] != classes:
        raise ValueError(
            f"Labels of shape {values.shape} do not fit a student with {classes} outputs: "
            f"CategoricalCrossentropy needs one-hot labels of shape (batch, {classes}); for "
            "integer labels use keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )
    elif (
        known
        and not isinstance(loss, keras.losses.CTC)
        and classes > 1
        and (values.ndim == 1 or values.shape[-1] not in (1, classes))
    ):
        raise ValueError(
            f"{kind.__name__} compares labels and outputs of equal shape. Received: labels "
            f"of shape {values.shape} for {classes} outputs. For class numbers use "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )


def _is_one_hot(values: np.ndarray, classes: int) -> bool:
    if values.ndim < 2 or classes < 2 or values.shape[-1] != classes:
        return False
    return bool(np.isin(values, (0, 1)).all() and (values.sum(-1) == 1).all())
