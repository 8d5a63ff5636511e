"""The form of `report.json` as a JSON Schema, made from `keras_kd.report.schema`, and its check.

`python -m keras_kd.report.json_schema > docs/report.schema.json` writes the file; a test compares.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from keras_kd.report import schema

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_KINDS = {
    "string": "a string", "integer": "an integer", "number": "a number",
    "boolean": "true or false", "array": "a list", "object": "a dict",
}  # fmt: skip
# Of a form gone wrong, so many places are named.
_MOST = 12


def check_result(result: Mapping[str, Any]) -> None:
    """Check that `result` has the form of `keras_kd.report.schema.Result`.

    Keys that the form does not name are left alone.

    Args:
        result: Plain Python numbers, strings, lists and dicts.

    Raises:
        ValueError: If keys are missing or values are of another type (all are named), if there
            are no models, if two models have the same key, or if what is told of a model does
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


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators

    # JSON Schema takes 3.0 for an integer.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int)
    return validators.extend(Draft202012Validator, type_checker=checker)(json_schema(False))


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


def json_schema(completed: bool = True) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a result.

    Args:
        completed: Whether what `complete_result` fills in must be there, as it is in
            `report.json`. Defaults to `True`.

    Returns:
        A dict that `json.dumps` accepts. Keys that it does not name are allowed.
    """
    definitions: dict[str, Any] = {}
    root = _definition(schema.Result, definitions)
    if completed:
        model = definitions["ModelResult"]
        for form, kind in ((root, schema.Result), (model, schema.ModelResult)):
            derived = [k for k, text in attribute_texts(kind).items() if text.startswith("Derived")]
            form["required"] = sorted({*form["required"], *derived})
    root["properties"]["schema_version"] = {
        **root["properties"]["schema_version"],
        "const": schema.SCHEMA_VERSION,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "report.json of keras_kd",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def attribute_texts(kind: Any) -> dict[str, str]:
    """Return what the docstring of a `TypedDict` says of each key."""
    text = inspect.getdoc(kind) or ""
    _, _, section = text.partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).strip() for name, words in entries}


@functools.cache
def type_hints(kind: Any) -> dict[str, Any]:
    """Return the types of the keys of a `TypedDict`."""
    return typing.get_type_hints(kind)


def _definition(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    texts = attribute_texts(kind)
    return {
        "type": "object",
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "properties": {
            key: {"description": texts[key], **_schema_of(entry, definitions)}
            for key, entry in type_hints(kind).items()
        },
        "required": sorted(kind.__required_keys__),
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is Any:
        return {}
    if typing.is_typeddict(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _definition(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], definitions)}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        if all(part in _NAMES for part in arguments):
            return {"type": [_NAMES[part] for part in arguments]}
        return {"anyOf": [_schema_of(part, definitions) for part in arguments]}
    return {"type": _NAMES[kind]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n")
