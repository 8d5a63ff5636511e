"""Recipes: the settings of a run in a TOML file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from keras_kd._version import __version__
from keras_kd.cli.named import nearest
from keras_kd.system import reading

if TYPE_CHECKING:
    from keras_kd.cli.command import Command

Tables = Mapping[str, Mapping[str, Any]]

_HEAD = """\
# Written by keras-kd {version}. Paths are relative to the folder in which the command is run.
# The same run again, into a new folder: keras-kd run THIS_FILE --out NEW_FOLDER

"""


def flag_of(param: click.Parameter) -> str:
    """Return how a setting is given on the command line."""
    is_option = isinstance(param, click.Option)
    return param.opts[0] if is_option else param.human_readable_name.removesuffix("...")


def read_recipe(path: str, commands: Iterable[Command]) -> dict[str, dict[str, Any]]:
    """Return the tables of a recipe by name, every value checked; `""` is the top of the file.

    Args:
        path: The TOML file.
        commands: All commands.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or a table, a key or a value is not known.
    """
    known: dict[str, dict[str, click.Parameter]] = {"": {}}
    for command in commands:
        if command.takes_recipe:
            known.setdefault(str(command.name), {})
            for param in command.settings:
                known.setdefault(command.section(param), {})[str(param.name)] = param
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no recipe '{path}'.")
    tables: dict[str, dict[str, Any]] = {"": {}}
    for name, value in reading.read_toml(path).items():
        if not isinstance(value, dict):
            tables[""][name] = _checked(path, known, "", name, value)
        elif name in known:
            tables[name] = {k: _checked(path, known, name, k, part) for k, part in value.items()}
        else:
            names = [table for table in known if table]
            raise ValueError(f"'{path}': there is no table [{name}]. {nearest(name, names)}")
    return tables


def _checked(
    path: str,
    known: Mapping[str, Mapping[str, click.Parameter]],
    table: str,
    key: str,
    value: Any,
) -> Any:
    place = f"'{path}', [{table}]" if table else f"'{path}'"
    if key not in known[table]:
        elsewhere = [name for name in known if key in known[name]]
        if elsewhere:
            tables = [f"the table [{t}]" if t else "the top of the file" for t in elsewhere]
            raise ValueError(f"{place}: `{key}` belongs to {' or '.join(tables)}.")
        raise ValueError(f"{place}: there is no key `{key}`. {nearest(key, known[table])}")
    param = known[table][key]
    kind, wanted = _kind(param)
    several = getattr(param, "multiple", False) or param.nargs == -1
    parts = value if several and isinstance(value, list) else [value]
    if several is not isinstance(value, list) or not all(
        isinstance(part, kind) and isinstance(part, bool) is (kind is bool) for part in parts
    ):
        raise ValueError(
            f"{place}: `{key}` must be {'a list of texts' if several else wanted}. "
            f"Received: {value!r}."
        )
    try:
        converted = [param.type.convert(part, param, None) for part in parts]
    except click.BadParameter as error:
        named = "" if error.message.startswith(f"`{key}`") else f"`{key}`: "
        raise ValueError(f"{place}: {named}{error.message}") from None
    return converted if several else converted[0]


def _kind(param: click.Parameter) -> tuple[Any, str]:
    """Return the Python types that a setting has in TOML, and their name."""
    if getattr(param, "is_flag", False):
        return bool, "true or false"
    number = getattr(param.type, "kind", None)
    if number is None:
        return str, "a text in quotes"
    return (int, "a whole number") if number is int else ((int, float), "a number")


def tables_of(command: Command, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tables of the recipe that repeats a command."""
    # From the general to the particular, as one would write it.
    tables: dict[str, dict[str, Any]] = {"": {}, "data": {}, "teaching": {}}
    for param in command.settings:
        value = settings.get(str(param.name))
        if value is not None and value != []:
            tables.setdefault(command.section(param), {})[str(param.name)] = value
    own = str(command.name)
    tables[own] = tables.pop(own, {})
    return {name: table for name, table in tables.items() if table or name == own}


def recipe_text(tables: Tables) -> str:
    """Return tables as the text of a recipe."""
    import tomli_w

    top = tables.get("", {})
    others = {name: table for name, table in tables.items() if name}
    return _HEAD.format(version=__version__) + tomli_w.dumps({**top, **others})
