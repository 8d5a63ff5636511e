"""The form of `report.json` as a JSON Schema, made from `keras_kd.report.schema`.

`python -m keras_kd.report.json_schema > docs/report.schema.json` writes the file; a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from typing import Any

from keras_kd.report import schema
from keras_kd.report.check import type_hints

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a completed result, which `report.json` holds.

    Returns:
        A dict that `json.dumps` accepts. Keys that it does not name are allowed.
    """
    definitions: dict[str, Any] = {}
    root = _definition(schema.Result, definitions)
    # What `complete_result` fills in is always there in the file.
    root["required"] = sorted({*root["required"], *_derived(schema.Result)})
    model = definitions["ModelResult"]
    model["required"] = sorted({*model["required"], *_derived(schema.ModelResult)})
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


def _derived(kind: Any) -> list[str]:
    return [name for name, text in attribute_texts(kind).items() if text.startswith("Derived")]


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
