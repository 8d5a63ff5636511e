"""What a cache was made of, and the reason why it does not fit something else."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.models.layers import hash_of_weights
from keras_kd.teachers.adapted_teacher import AdaptedTeacher
from keras_kd.teachers.callable_teacher import CallableTeacher


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
        return (
            f"its data set had elements of {cached['elements']}, this one has {asked['elements']}"
        )
    if None not in (cached["batches"], asked["batches"]) and cached["batches"] != asked["batches"]:
        return f"its data set had {cached['batches']} batches, this one has {asked['batches']}"
    return None
