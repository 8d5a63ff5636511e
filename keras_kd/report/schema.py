"""The form of a result, from which the page, the JSON file, the card and the table are made.

`templates/report.schema.json` describes every key. Times are milliseconds, sizes are bytes,
accuracies and other shares are fractions in 0..1; a number that is not finite is `null`. Keys which
are described as derived are computed by `complete_result`, whatever they held before, and may be
left out.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_kd.system.reading import read_json

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)
# What version 2 called otherwise.
_OLD_NAMES = {
    "latency_ms_median": "latency_ms",
    "latency_ms_p90": "latency_p90_ms",
    "latency_ms_p99": "latency_p99_ms",
    "latency_ms_without_xnnpack": "latency_without_xnnpack_ms",
    "keras_accuracy": "model_accuracy",
    "nonzero": "nonzero_parameters",
}
_KINDS = {
    "string": "a string", "integer": "an integer", "number": "a number",
    "boolean": "true or false", "array": "a list", "object": "a dict",
}  # fmt: skip
# Of a form gone wrong, so many places are named.
_MOST = 12


def with_current_names(entry: Any) -> Any:
    """Return what was measured of one file, seed or stage, with the keys of version 2 renamed."""
    if not isinstance(entry, dict):
        return entry
    return {_OLD_NAMES.get(key, key): value for key, value in entry.items()}


def check_result(result: Mapping[str, Any]) -> None:
    """Check that `result` has the form of a result.

    Keys that the form does not name are left alone.

    Args:
        result: Plain Python numbers, strings, lists and dicts.

    Raises:
        ValueError: If keys are missing or values are of another type (all are named), if there
            are no models, if two models have the same key, or if the entries of a model do
            not fit together.
    """
    errors = _validator().iter_errors(result)
    found = list(dict.fromkeys(text for error in errors for text in _sentences(error)))
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
    if (shipped := result.get("shipped")) is not None and shipped not in keys:
        raise ValueError(f"result['shipped'] is {shipped!r}, expected one of {keys}.")


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators

    form = read_json(pathlib.Path(__file__).with_name("templates") / "report.schema.json")
    for part in (form, *form["$defs"].values()):
        described = part["properties"]
        part["required"] = [
            key
            for key in part["required"]
            if not described[key].get("description", "").startswith("Derived")
        ]
    # JSON Schema takes 3.0 for an integer.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int)
    return validators.extend(Draft202012Validator, type_checker=checker)(form)


def _sentences(error: Any) -> list[str]:
    """Return what an error of `jsonschema` says, with the place as it is written in Python."""
    place = "result" + "".join(f"[{part!r}]" for part in error.absolute_path)
    value, wanted = error.instance, error.validator_value
    if error.validator == "anyOf":  # a form or null: what is wrong with the form
        return [s for part in error.context if part.schema_path[0] == 0 for s in _sentences(part)]
    if error.validator == "required":
        return [f"{place} has no {', '.join(repr(key) for key in wanted if key not in value)}"]
    if error.validator == "enum":
        return [f"{place} is {value!r}, expected one of {tuple(wanted)}"]
    shown = "null" if value is None else type(value).__name__
    return [
        f"{place} is {shown}, expected {_KINDS[wanted if isinstance(wanted, str) else wanted[0]]}"
    ]


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
