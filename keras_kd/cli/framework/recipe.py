"""Recipes: a whole run in a TOML file, and the settings of a command from recipe and options."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from keras_kd._version import __version__
from keras_kd.cli.call_text import nearest
from keras_kd.cli.framework.command import Command
from keras_kd.cli.framework.option import Option
from keras_kd.cli.framework.toml_text import read_toml, toml_text

Tables = dict[str, dict[str, Any]]

_HEAD = """\
Written by keras-kd {version}. Paths are relative to the folder in which the command is run.
The same run again, into a new folder: keras-kd run THIS_FILE --out NEW_FOLDER"""


def read_recipe(path: str, commands: Iterable[Command]) -> Tables:
    """Return the tables of a recipe, every value checked.

    Args:
        path: The TOML file.
        commands: All commands.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or a table, a key or a value is not known.
    """
    known: dict[str, dict[str, Option]] = {"": {}}
    for command in commands:
        if not command.takes_recipe:
            continue
        known.setdefault(command.name, {})
        for option in command.options:
            known.setdefault(command.section(option), {})[option.key] = option
    content = read_toml(pathlib.Path(path))
    tables: Tables = {"": {}}
    for name, value in content.items():
        if isinstance(value, dict):
            if name not in known:
                names = [table for table in known if table]
                raise ValueError(f"'{path}': there is no table [{name}]. {nearest(name, names)}")
            tables[name] = {
                key: _checked(path, known, name, key, part) for key, part in value.items()
            }
        else:
            tables[""][name] = _checked(path, known, "", name, value)
    return tables


def _checked(
    path: str, known: Mapping[str, Mapping[str, Option]], table: str, key: str, value: Any
) -> Any:
    place = f"'{path}', [{table}]" if table else f"'{path}'"
    if key not in known[table]:
        elsewhere = [name for name in known if key in known[name]]
        if elsewhere:
            where = f"the table [{elsewhere[0]}]" if elsewhere[0] else "the top of the file"
            raise ValueError(f"{place}: `{key}` belongs to {where}.")
        raise ValueError(f"{place}: there is no key `{key}`. {nearest(key, known[table])}")
    return known[table][key].check(value, place)


def settings_of(
    command: Command, tables: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all settings of a command: what was given, else of the recipe, else the defaults.

    Raises:
        ValueError: If one that must be given is missing, or one is out of range.
    """
    settings = {}
    for option in command.options:
        section = command.section(option)
        if option.key in given:
            value = given[option.key]
            if value is not None:
                value = option.check(value, option.flag)
        else:
            value = tables.get(section, {}).get(option.key, option.default)
        if option.required and value in (None, []):
            table = f"[{section}]" if section else "the top"
            raise ValueError(
                f"`keras-kd {command.name}` needs {option.flag}: {_first_lower(option.help)} "
                f"(In a recipe: `{option.key}` in {table}.)"
            )
        settings[option.key] = value
    return settings


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".") + "."


def tables_of(command: Command, settings: Mapping[str, Any]) -> Tables:
    """Return the tables of the recipe that repeats a command."""
    tables: Tables = {"": {}, command.name: {}}
    for option in command.options:
        value = settings.get(option.key)
        if value is not None and value != []:
            tables.setdefault(command.section(option), {})[option.key] = value
    # From the general to the particular, as one would write it.
    order = ["", "data", "teaching", command.name]
    return {name: tables[name] for name in order if name in tables}


def recipe_text(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables as the text of a recipe."""
    return toml_text(tables, _HEAD.format(version=__version__))
