"""Option: one setting of a command, on the command line and in a recipe."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from keras_kd.system.arguments import number

KINDS = {
    "text": "a text in quotes",
    "texts": "a list of texts",
    "integer": "a whole number",
    "number": "a number",
    "switch": "true or false",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One setting.

    Attributes:
        key: Its name in a recipe; `--name-with-dashes` on the command line.
        kind: A key of `KINDS`.
        help: What it does, for `--help`.
        default: Its value where it is not given. Defaults to `None`.
        section: The table of the recipe that holds it; `""` for the top. Defaults to `None`, the
            table of the command.
        metavar: What stands for the value in `--help`. Defaults to `None`.
        choices: The values that it takes. Defaults to `None`, all of its kind.
        least: The smallest number that it takes. Defaults to `None`.
        above: What its number must be above. Defaults to `None`.
        most: The largest number that it takes. Defaults to `None`.
        positional: Whether it is given without `--name`. Defaults to `False`.
        required: Whether it must be given. Defaults to `False`.
    """

    key: str
    kind: str
    help: str
    default: Any = None
    section: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    positional: bool = False
    required: bool = False

    @property
    def flag(self) -> str:
        """How it is given on the command line."""
        return self.metavar or self.key if self.positional else f"--{self.key.replace('_', '-')}"

    def check(self, value: Any, place: str) -> Any:
        """Return a value of a recipe, of the right kind.

        Raises:
            ValueError: If it is of another kind or out of range.
        """
        kinds: dict[str, Any] = {"text": str, "integer": int, "number": (int, float)}
        if self.kind == "switch":
            right = isinstance(value, bool)
        elif self.kind == "texts":
            right = isinstance(value, list) and all(isinstance(part, str) for part in value)
        else:
            right = isinstance(value, kinds[self.kind]) and not isinstance(value, bool)
        if not right:
            raise ValueError(
                f"{place}: `{self.key}` must be {KINDS[self.kind]}. Received: {value!r}."
            )
        self._check_range(value, place)
        return float(value) if self.kind == "number" else value

    def _check_range(self, value: Any, place: str) -> None:
        if self.choices is not None:
            for part in value if isinstance(value, list) else [value]:
                if part not in self.choices:
                    raise ValueError(
                        f"{place}: `{self.key}` must be one of {', '.join(self.choices)}. "
                        f"Received: {part!r}."
                    )
        if self.kind in ("integer", "number"):
            number(self.key, value, least=self.least, above=self.above, most=self.most, owner=place)

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Add it to a parser, which leaves it out of the result where it is not given."""
        names = [self.key] if self.positional else [self.flag]
        arguments: dict[str, Any] = {"default": argparse.SUPPRESS, "help": self._help()}
        if self.kind == "switch":
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["metavar"] = self.metavar or self.key.upper()
            if self.choices is not None:
                arguments["choices"] = self.choices
                arguments["metavar"] = self.metavar or "{" + ",".join(self.choices) + "}"
            arguments["type"] = {"integer": int, "number": float}.get(self.kind, str)
            if self.kind == "texts":
                arguments["nargs"] = "*" if self.positional else "+"
            elif self.positional:
                arguments["nargs"] = "?"
            if self.kind == "texts" and not self.positional:
                arguments["action"] = "extend"
        parser.add_argument(*names, **arguments)

    def _help(self) -> str:
        text = self.help.replace("%", "%%")
        if self.default is None or self.kind == "switch":
            return text
        value = " ".join(self.default) if isinstance(self.default, list) else self.default
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{text} (default: {shown.replace('%', '%%')})"
