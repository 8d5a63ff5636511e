"""TOML: read with the standard library's reader, written for the flat tables of a recipe."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_kd.system import reading


def read_toml(path: pathlib.Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML; with the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe '{path}'.")
    return reading.read_toml(path)


def toml_text(tables: Mapping[str, Mapping[str, Any]], comment: str = "") -> str:
    """Return tables as TOML.

    Args:
        tables: Values by key, by table; the table `""` stands at the top. Values are texts,
            numbers, booleans and lists of these; those that are `None` are left out.
        comment: Lines for the head of the file. Defaults to none.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    for name in sorted(tables, key=lambda table: table != ""):
        values = {key: value for key, value in tables[name].items() if value is not None}
        if not values and name == "":
            continue
        lines += [""] if lines else []
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are among TOML's, but for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(part) for part in value)}]"
    raise TypeError(f"A recipe cannot hold {value!r}.")
