"""Whether a data set can be cached, and whether a cache belongs to a data set and a teacher."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.caching.build import inputs_of
from keras_kd.caching.manifest import NAME, Manifest, refusal
from keras_kd.caching.read import ANOTHER_ORDER, first_record, same_inputs, stored_element
from keras_kd.caching.records import ELEMENT, INPUTS, input_fingerprints
from keras_kd.caching.teacher_pass import TeacherPass

_LOOKED_AT = 4  # batches that are drawn twice
_COMPARED = 8  # samples that the teacher is run on


def check_batched(teacher: Any, inputs: Any) -> None:
    """Refuse a data set of single examples, where the teacher tells the shape of its inputs.

    Args:
        teacher: The teacher.
        inputs: The specification of an element's inputs.

    Raises:
        ValueError: Saying what to write.
    """
    given = [spec.shape for spec in keras.tree.flatten(inputs)]
    expected = [tensor.shape for tensor in getattr(teacher, "inputs", None) or []]
    if len(given) != len(expected) or any(shape.rank is None for shape in given):
        return
    if all(len(one) == len(batch) - 1 for one, batch in zip(given, expected, strict=True)):
        raise ValueError(
            f"The data set gives inputs of shape {tuple(given[0])}, single examples, but the "
            f"teacher takes batches, {tuple(expected[0])}: write dataset.batch(64)."
        )


def check_deterministic(dataset: tf.data.Dataset) -> None:
    """Refuse a data set that does not give the same inputs twice.

    Raises:
        ValueError: With what to write instead.
    """
    options = tf.data.Options()
    options.deterministic = True
    head = dataset.with_options(options).take(_LOOKED_AT)
    drawn = [[input_fingerprints(inputs_of(batch)).numpy() for batch in head] for _ in range(2)]
    if len(drawn[0]) == len(drawn[1]) and all(map(np.array_equal, *drawn)):
        return
    raise ValueError(
        "The data set gives other inputs each time it is drawn, so a cache of the teacher's "
        "outputs would teach wrongly: what it said of one input would be paired with another. "
        "For a `shuffle` before the cache: move it behind, "
        "cache(teacher, dataset, path).unbatch().shuffle(10_000).batch(64). For random "
        "augmentation: store the augmented inputs of some epochs with the outputs, "
        "cache(..., views=10), or seed the augmentation by the example, such as "
        "tf.image.stateless_random_flip_left_right(image, seed=(index, 0))."
    )


def check_first_batch(
    folder: pathlib.Path,
    manifest: Manifest,
    dataset: tf.data.Dataset,
    teacher_pass: TeacherPass,
) -> None:
    """Refuse a cache whose first record does not belong to this data, or to this teacher.

    The teacher runs on a few samples: weights and configuration do not show a change of its code.

    Raises:
        ValueError: With the reason.
    """
    record = first_record(folder, manifest)
    try:
        if manifest.fingerprint["views"] is None:
            element = next(iter(dataset), None)
            if element is None or not bool(same_inputs(element, record[INPUTS])):
                raise refusal(folder, ANOTHER_ORDER)
        else:
            element = stored_element(record, dataset.element_spec)
    except (KeyError, TypeError, tf.errors.OpError) as error:
        raise refusal(folder, f"its first record does not fit its {NAME} ({error})") from None
    inputs = inputs_of(element)
    if teacher_pass.fixed_batch is None:
        inputs = _few(inputs)
    said = teacher_pass(inputs)
    differing = {*said} ^ {key for key in record if not key.startswith(ELEMENT)}
    tolerance = 1e-2 if manifest.fingerprint["dtype"] == "float16" else 1e-3
    for key in said if not differing else ():
        here, there = said[key].numpy(), record[key].numpy()
        there = there[: len(here)] if here.ndim else there
        if key == INPUTS or key.endswith("/indices"):  # equal logits come in any order
            continue
        if not _are_close(here, there, tolerance):
            differing.add(key)
    if differing:
        raise refusal(
            folder,
            f"it was made by another teacher, or by other code of this one: '{min(differing)}' of "
            "the first batch differs",
        )


def _few(inputs: Any) -> Any:
    """Return the first samples of a batch; all of it where it is not made of plain tensors."""
    if not all(isinstance(tensor, tf.Tensor) for tensor in keras.tree.flatten(inputs)):
        return inputs
    return keras.tree.map_structure(lambda tensor: tensor[:_COMPARED], inputs)


def _are_close(here: np.ndarray, there: np.ndarray, tolerance: float) -> bool:
    if here.shape != there.shape or here.dtype != there.dtype:
        return False
    if here.dtype.kind not in "fciub":
        return bool((here == there).all())
    return np.allclose(here, there, rtol=tolerance, atol=tolerance * _scale(there), equal_nan=True)


def _scale(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)].astype("float64"))
    return float(finite.mean()) if finite.size else 0.0
