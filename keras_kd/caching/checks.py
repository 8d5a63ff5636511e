"""Whether data can be cached, and whether a cache belongs to data, teacher and arguments."""

from __future__ import annotations

import hashlib
import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.caching.build import inputs_of
from keras_kd.caching.manifest import NAME, Manifest, refusal
from keras_kd.caching.read import ANOTHER_ORDER, first_record, same_inputs, stored_element
from keras_kd.caching.records import ELEMENT, INPUTS, MASK, input_fingerprints
from keras_kd.caching.teacher_pass import TeacherPass
from keras_kd.models.layers import hash_of_weights
from keras_kd.system.quiet import without_noise
from keras_kd.system.user_warning import warn_user
from keras_kd.teachers.adapted_teacher import AdaptedTeacher
from keras_kd.teachers.callable_teacher import CallableTeacher

_LOOKED_AT = 4  # batches that are drawn twice
_COMPARED = 8  # samples that the teacher is run on


def check_batched(teacher: Any, inputs: Any) -> None:
    """Refuse a dataset of single examples, where the teacher has inputs of known shape.

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
            f"The dataset gives inputs of shape {tuple(given[0])}, single examples, but the "
            f"teacher takes batches, {tuple(expected[0])}: write dataset.batch(64)."
        )


def check_deterministic(dataset: tf.data.Dataset) -> None:
    """Refuse a dataset that does not give the same inputs twice.

    Raises:
        ValueError: With what to write instead.
    """
    options = tf.data.Options()
    options.deterministic = True
    head = dataset.with_options(options).take(_LOOKED_AT)
    with without_noise():
        drawn = [[input_fingerprints(inputs_of(batch)).numpy() for batch in head] for _ in range(2)]
    if len(drawn[0]) == len(drawn[1]) and all(map(np.array_equal, *drawn)):
        return
    raise ValueError(
        "The dataset gives different inputs in each pass, so a cache would pair "
        "the teacher's output for one input with another input. "
        "Move a `shuffle` after the cache: "
        "cache(teacher, dataset, path).unbatch().shuffle(10_000).batch(64). For random "
        "augmentation: store the augmented inputs of some epochs with the outputs, "
        "cache(..., views=10), or seed the augmentation by the example, such as "
        "tf.image.stateless_random_flip_left_right(image, seed=(index, 0))."
    )


def warn_of_equal_views(folder: pathlib.Path, manifest: Manifest) -> None:
    """Warn where the dataset gave the same inputs for several views."""
    inputs: dict[int, list[str]] = {}
    for shard in manifest.shards:
        inputs.setdefault(shard.view, []).append(shard.inputs)
    different = len(set(map(tuple, inputs.values())))
    if different < len(inputs):
        warn_user(
            f"The cache in '{folder}' holds {len(inputs)} views, of which only {different} differ: "
            "the dataset gives the same inputs in several passes. Without augmentation, leave "
            "`views` out. After keras.utils.set_random_seed or tf.random.set_seed, operations such "
            "as tf.random.uniform draw the same numbers in every pass. Create a "
            "tf.random.Generator outside of `map`, draw from it, and build the cache again."
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
            with without_noise():
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
    if any(key.startswith(MASK) for key in differing & {*said}):
        raise refusal(
            folder,
            "it does not hold the Keras masks of the teacher's outputs, which count in the losses",
        )
    tolerance = 1e-2 if manifest.fingerprint["dtype"] == "float16" else 1e-3
    written = {leaf.key: leaf.dtype for leaf in manifest.leaves}
    for key in said if not differing else ():
        if said[key].dtype.name != written[key]:
            differing.add(key)
            continue
        # What was written as float16 is read as float32.
        here, there = tf.cast(said[key], record[key].dtype).numpy(), record[key].numpy()
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
    if here.shape != there.shape:
        return False
    if here.dtype.kind not in "fciub":
        return bool((here == there).all())
    return np.allclose(here, there, rtol=tolerance, atol=tolerance * _scale(there), equal_nan=True)


def _scale(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)].astype("float64"))
    return float(finite.mean()) if finite.size else 0.0


def fingerprint(
    teacher: Any,
    dataset: tf.data.Dataset,
    *,
    layers: Sequence[str],
    dtype: str,
    top_k: int | None,
    temperature: float | None,
    views: int | None,
) -> dict[str, Any]:
    """Return everything that decides what a cache holds, as JSON can hold it."""
    count = int(dataset.cardinality())
    return {
        "teacher": teacher_fingerprint(teacher),
        "layers": sorted(layers),
        "dtype": dtype,
        "top_k": top_k,
        "temperature": temperature,
        "views": views,
        "elements": str(dataset.element_spec),
        "batches": count if count >= 0 else None,
    }


def teacher_fingerprint(teacher: Any) -> dict[str, Any]:
    """Return hashes of a teacher's weights and of its configuration, `None` where it has none."""
    while isinstance(teacher, (AdaptedTeacher, CallableTeacher)):
        teacher = teacher.teacher
    return {"weights": hash_of_weights(teacher), "config": _hash_of_config(teacher)}


def _hash_of_config(teacher: Any) -> str | None:
    text = _config_of(teacher)
    return None if text is None else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _config_of(teacher: Any) -> str | None:
    if not hasattr(teacher, "get_config"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Lambda layers, that loading them is unsafe
            config = keras.saving.serialize_keras_object(teacher)
        return json.dumps(_without_names(config, {}), sort_keys=True, default=_kind)
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return None


def _kind(value: Any) -> str:
    return type(value).__name__  # its repr may hold an address


_LAMBDA = "__lambda__"

# What differs between two copies of one model, and leaves its outputs as they are.
_IRRELEVANT = ("name", "seed", "shared_object_id", "compile_config", "trainable")


def _without_names(config: Any, numbers: dict[str, int]) -> Any:
    """Number the layers as they come: Keras calls the second `Dense` of a process `dense_1`."""
    if isinstance(config, Mapping):
        if config.get("class_name") == _LAMBDA:
            return _LAMBDA  # its code holds the line that it was written on
        return {
            key: _without_names(value, numbers)
            for key, value in config.items()
            if key not in _IRRELEVANT
        }
    if isinstance(config, (list, tuple)):
        # A reference to a layer: its name, node and tensor.
        if len(config) == 3 and isinstance(config[0], str) and _are_numbers(config[1:]):
            return [numbers.setdefault(config[0], len(numbers)), *config[1:]]
        return [_without_names(value, numbers) for value in config]
    return config


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def difference(cached: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Return why a cache of one fingerprint cannot serve for another, or `None` if it can."""
    theirs, ours = cached["teacher"], asked["teacher"]
    if theirs["weights"] != ours["weights"]:
        return "it was made by another teacher: the weights differ"
    if theirs["config"] != ours["config"]:
        return "it was made by another teacher: the weights are the same, the layers are not"
    for key, what in (
        ("layers", "layers"),
        ("dtype", "dtype"),
        ("top_k", "top_k"),
        ("temperature", "temperature"),
        ("views", "views"),
    ):
        if cached[key] != asked[key]:
            return f"it holds {what}={cached[key]!r}, and {what}={asked[key]!r} was asked for"
    if cached["elements"] != asked["elements"]:
        return f"its dataset had elements of {cached['elements']}, this one has {asked['elements']}"
    if None not in (cached["batches"], asked["batches"]) and cached["batches"] != asked["batches"]:
        return f"its dataset had {cached['batches']} batches, this one has {asked['batches']}"
    return None
