from __future__ import annotations

import inspect
import json
import pathlib
import typing

from keras_kd.report import schema
from keras_kd.report.check import type_hints
from keras_kd.report.json_schema import attribute_texts, json_schema

FILE = pathlib.Path(__file__).parents[2] / "docs" / "report.schema.json"


def public_forms():
    return [
        kind
        for name, kind in vars(schema).items()
        if typing.is_typeddict(kind) and not name.startswith("_")
    ]


def test_the_file_is_what_the_command_writes():
    command = "python -m keras_kd.report.json_schema > docs/report.schema.json"
    assert json.loads(FILE.read_text(encoding="utf-8")) == json_schema(), f"run: {command}"


def test_every_key_is_described_and_nothing_else():
    assert len(public_forms()) >= 12
    for kind in public_forms():
        assert set(attribute_texts(kind)) == set(type_hints(kind)), kind.__name__
        assert inspect.getdoc(kind)


def test_types():
    found = json_schema()
    assert found["properties"]["schema_version"]["const"] == schema.SCHEMA_VERSION
    assert found["$defs"]["FileResult"]["properties"]["agreement"]["type"] == ["number", "null"]
    assert found["$defs"]["ModelResult"]["properties"]["file"]["anyOf"] == [
        {"$ref": "#/$defs/FileResult"},
        {"type": "null"},
    ]
    assert found["$defs"]["Curve"]["properties"]["series"]["additionalProperties"] == {
        "type": "array",
        "items": {"type": ["number", "null"]},
    }
    assert found["$defs"]["ModelResult"]["properties"]["accuracy_of"]["enum"] == [
        "file",
        "keras model",
    ]


def test_what_is_derived_is_always_there():
    found = json_schema()
    assert {"headline", "pareto_fronts", "schema_version"} <= set(found["required"])
    assert "accuracy" in found["$defs"]["ModelResult"]["required"]
    assert "runs" not in found["required"]
