"""Checking that a dict has the form of a result."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from keras_kd.report.schema import Result

_KINDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
# Of a form gone wrong, so many places are named.
_MOST = 12


def check_result(result: Mapping[str, Any]) -> None:
    """Check that `result` has the form of `keras_kd.report.schema.Result`.

    Keys that the form does not name are left alone.

    Args:
        result: Plain Python numbers, strings, lists and dicts.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys are missing or values are of another type (all are named), if there
            are no models, if two models have the same key, or if what is told of a model does
            not fit together.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"A report is made from a dict; received {type(result).__name__}.")
    found = problems(result, Result, "result")
    if not found:
        for i, model in enumerate(result["models"]):
            found += _model_problems(model, f"result['models'][{i}]", len(result["classes"]))
    if found:
        more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise ValueError("The result cannot be reported: " + "; ".join(found[:_MOST]) + more + ".")
    keys = [model["key"] for model in result["models"]]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if not keys or repeated:
        what = f"repeated: {', '.join(repeated)}" if repeated else "there is none"
        raise ValueError(f"result['models'] needs models with unique keys; {what}.")


@functools.cache
def type_hints(kind: Any) -> dict[str, Any]:
    """Return the types of the keys of a `TypedDict`."""
    return typing.get_type_hints(kind)


def problems(value: Any, kind: Any, place: str) -> list[str]:
    """Return a sentence for everything in `value` that is not of type `kind`.

    Args:
        value: A value.
        kind: A type of `keras_kd.report.schema`.
        place: How to call the value.
    """
    if kind is Any:
        return []
    if typing.is_typeddict(kind):
        if not isinstance(value, Mapping):
            return [_wrong(value, "a dict", place)]
        absent = sorted(kind.__required_keys__ - set(value))
        found = [f"{place} has no {', '.join(repr(key) for key in absent)}"] if absent else []
        for key, entry in type_hints(kind).items():
            if key in value:
                found += problems(value[key], entry, f"{place}['{key}']")
        return found
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            return [_wrong(value, "a list", place)]
        entries = [problems(v, arguments[0], f"{place}[{i}]") for i, v in enumerate(value)]
        return [problem for entry in entries for problem in entry]
    if origin is dict:
        if not isinstance(value, Mapping):
            return [_wrong(value, "a dict", place)]
        entries = [problems(v, arguments[1], f"{place}[{k!r}]") for k, v in value.items()]
        return [problem for entry in entries for problem in entry]
    if origin is typing.Literal:
        return [] if value in arguments else [f"{place} is {value!r}, expected one of {arguments}"]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return []
        tried = [problems(value, part, place) for part in arguments if part is not type(None)]
        return [] if [] in tried else tried[0]
    return _scalar_problems(value, kind, place)


def _scalar_problems(value: Any, kind: type, place: str) -> list[str]:
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [] if right else [_wrong(value, _KINDS[kind], place)]


def _wrong(value: Any, expected: str, place: str) -> str:
    shown = "null" if value is None else type(value).__name__
    return f"{place} is {shown}, expected {expected}"


def _model_problems(model: Mapping[str, Any], place: str, classes: int) -> list[str]:
    found = []
    if not model["seeds"]:
        found.append(f"{place}['seeds'] is empty")
    if model["file"] is None and model["accuracy_of"] == "file":
        found.append(f"{place}['accuracy_of'] is 'file', expected 'keras model': there is no file")
    for name, seed in model["seeds"].items():
        if seed["accuracy"] is not None and not 0 <= seed["accuracy"] <= 1:
            found.append(
                f"{place}['seeds'][{name!r}]['accuracy'] is {seed['accuracy']!r}, expected a "
                "fraction between 0 and 1"
            )
    confusion = model.get("confusion")
    if confusion and any(len(row) != len(confusion) for row in confusion):
        found.append(f"{place}['confusion'] is not square")
    elif confusion and classes and len(confusion) != classes:
        found.append(
            f"{place}['confusion'] has {len(confusion)} rows, but result['classes'] has "
            f"{classes} names"
        )
    return found
