"""Command: what the parser and the recipes know of a command."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.framework.option import Option


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Its name, and that of its table in a recipe.
        summary: One line for `keras-kd --help`.
        description: A few sentences for its own `--help`.
        example: Command lines that show it.
        options: Its settings.
        module: The module whose `run(settings, console)` does the work; it is imported then.
        takes_recipe: Whether it has `--recipe`. Defaults to `True`.
        shortcuts: Functions that add further words to its parser. Defaults to none.
    """

    name: str
    summary: str
    description: str
    example: str
    options: tuple[Option, ...]
    module: str
    takes_recipe: bool = True
    shortcuts: tuple[Callable[[argparse.ArgumentParser], None], ...] = ()

    def section(self, option: Option) -> str:
        """Return the table of a recipe that holds an option."""
        return self.name if option.section is None else option.section

    def run(self, settings: dict[str, Any], console: Console) -> Outcome:
        """Do the work."""
        outcome: Outcome = importlib.import_module(self.module).run(settings, console)
        return outcome
