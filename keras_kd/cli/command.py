"""Command: a click command whose options are the keys of a recipe too."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click
from click.core import augment_usage_errors

from keras_kd.cli.console import Console, Outcome, stdout_to_stderr
from keras_kd.cli.recipe import Tables, flag_of, read_recipe
from keras_kd.system.arguments import number

EXIT_CODES = """\
exit codes: 0 done; 1 an error, in one line on stderr; 2 wrong usage: an option that is unknown or
missing, or a value that it does not take; 3 a budget was exceeded; 130 interrupted (rerun the
command to resume)"""

# The help's titles: of the options in each table of a recipe, and of those that no recipe holds.
_TITLES = {
    "": "Run",
    "data": "Data",
    "teaching": "Teaching",
    "stages": "Stages, in the order in which they are given",
    "output": "Output",
}

Run = Callable[[dict[str, Any], Console], Outcome]


class Number(click.ParamType):
    """A finite number within bounds.

    Args:
        kind: `float` or `int`. Defaults to `float`.
        nonzero: Whether it must not be 0. Defaults to `False`.
        **bounds: As for `keras_kd.system.arguments.number`.
    """

    name = "number"

    def __init__(self, kind: type = float, *, nonzero: bool = False, **bounds: Any) -> None:
        self.kind = kind
        self.nonzero = nonzero
        self.bounds = bounds

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Return the number; anything else is wrong usage."""
        if isinstance(value, str):
            try:
                value = self.kind(value)
            except ValueError:
                kind = "whole number" if self.kind is int else "number"
                self.fail(f"{value!r} is not a {kind}.", param, ctx)
        if self.nonzero and value == 0:
            self.fail(f"`{param.name}` must not be 0. Received: {param.name}=0.", param, ctx)
        try:
            return self.kind(number(param.name, value, **self.bounds))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Checked(click.ParamType):
    """A text that a function takes; one that it refuses is wrong usage.

    Args:
        check: Raises `ValueError` for a text that it refuses. It may use Keras.
    """

    name = "text"

    def __init__(self, check: Callable[[str], Any]) -> None:
        self.check = check

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Return the text."""
        _start_tensorflow()
        try:
            self.check(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


class Option(click.Option):
    """An option of a command.

    Args:
        name: Its name in a recipe; `--name-with-dashes` on the command line, and `--no-name` as
            well where it is a switch.
        help: What it does.
        section: The table of a recipe that holds it, `""` for the top. Defaults to `None`, the
            table of the command.
        type: As for `click.Option`; `bool` makes a switch. Defaults to `str`.
        empty: The value of an option that is given without one. Defaults to `None`: it needs one.
        **attributes: Others of `click.Option`.
    """

    def __init__(
        self,
        name: str,
        help: str,
        *,
        section: str | None = None,
        type: Any = str,
        empty: str | None = None,
        **attributes: Any,
    ) -> None:
        flag = f"--{name.replace('_', '-')}"
        attributes.setdefault("show_default", type is not bool)
        if type is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        elif not isinstance(type, click.Choice) and "is_flag" not in attributes:
            metavar = attributes.get("metavar", name.upper())
            attributes["metavar"] = f"{metavar}..." if attributes.get("multiple") else metavar
        self.empty = empty
        self.section = section
        super().__init__([name, flag], help=help, type=type, **attributes)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what stands behind the help; a recipe may give what is required."""
        extra = super().get_help_extra(ctx)
        extra.pop("required", None)
        return extra

    def words(self, values: Iterable[str]) -> list[str]:
        """Return the words that give values to it."""
        return [f"{self.opts[0]}={value}" for value in values]


class Command(click.Command):
    """One command; the options and arguments that it exposes are the keys of its recipe.

    Args:
        name: Its name, and that of its table in a recipe.
        params: Its options and arguments.
        example: Command lines that show it.
        takes_recipe: Whether it has `--recipe`. Defaults to `True`.
        **texts: `short_help` and `help`.
    """

    def __init__(
        self,
        name: str,
        *,
        params: Iterable[click.Parameter],
        example: str,
        takes_recipe: bool = True,
        **texts: str,
    ) -> None:
        self.example = example
        self.takes_recipe = takes_recipe
        super().__init__(
            name,
            params=[*params, *self._output_options()],
            epilog=verbatim(f"example:\n{example}\n\n{EXIT_CODES}"),
            context_settings=CONTEXT,
            **texts,  # type: ignore[arg-type]
        )

    @property
    def settings(self) -> list[click.Parameter]:
        """What a recipe holds of it."""
        return [param for param in self.params if param.expose_value]

    def does(self, run: Run) -> Run:
        """Decorate the function that does the work with all settings by name."""
        self.callback = run
        return run

    def section(self, param: click.Parameter) -> str:
        """Return the table of a recipe that holds a setting."""
        section = getattr(param, "section", None)
        return str(self.name) if section is None else section

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words.

        Raises:
            click.UsageError: If a setting that must be given is given neither here nor in a
                recipe, or one has a value that it does not take.
        """
        try:
            with augment_usage_errors(ctx):
                return super().parse_args(ctx, list(self._words(args)))
        except click.MissingParameter as error:
            param: Any = error.param
            section = self.section(param)
            raise click.UsageError(
                f"`keras-kd {self.name}` needs {flag_of(param)}: {param.help}. "
                f"(In a recipe: `{param.name}` in {f'[{section}]' if section else 'the top'}.)",
                ctx,
            ) from None

    def _words(self, args: list[str]) -> Iterator[str]:
        """Yield words in which each value has a flag: `--loss a b` is `--loss=a --loss=b`."""
        options = {
            flag: param
            for param in self.params
            if isinstance(param, Option) and not param.is_flag
            for flag in param.opts
        }
        words = list(args)
        while words:
            word = words.pop(0)
            flag, equals, value = word.partition("=")
            option = options.get(flag)
            if option is None:
                yield word
                if word == "--":
                    yield from words
                    return
                continue
            values = [value] if equals else list(itertools.takewhile(_is_value, words))
            values = values if option.multiple else values[:1]
            words = words if equals else words[len(values) :]
            if not values and option.empty is None:
                raise click.BadOptionUsage(flag, f"Option '{flag}' requires an argument.")
            yield from option.words(values or [option.empty or ""])

    def invoke(self, ctx: click.Context) -> Outcome:
        """Do the work."""
        console = ctx.ensure_object(Console)
        with stdout_to_stderr(console.json), augment_usage_errors(ctx):
            _start_tensorflow()
            return self.run(self.values(ctx), console)

    def run(self, settings: dict[str, Any], console: Console) -> Outcome:
        """Do the work with these settings."""
        outcome: Outcome = self.callback(settings, console)  # type: ignore[misc]
        return outcome

    def values(self, ctx: click.Context) -> dict[str, Any]:
        """Return the settings of a context; several values are a list, as in JSON and TOML."""
        given = ((param.name, ctx.params[param.name]) for param in self.settings)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given}

    def settings_of(self, tables: Tables, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all settings: what is given, else of the recipe, else the defaults.

        Raises:
            ValueError: If one that must be given is missing, or one is out of bounds.
        """
        defaults = {**self._kept(tables), **(given or {})}
        with usage_errors_of_recipe():
            return self.values(self.make_context(self.name, [], default_map=defaults))

    def _kept(self, tables: Tables) -> dict[str, Any]:
        """Return the settings in a recipe's tables."""
        places = ((param.name, tables.get(self.section(param), {})) for param in self.settings)
        return {name: table[name] for name, table in places if name in table}

    def _output_options(self) -> Iterator[click.Parameter]:
        def keep(ctx: click.Context, param: click.Parameter, value: bool) -> None:
            setattr(ctx.ensure_object(Console), str(param.name), value)

        def take(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
            if path is not None:
                kept = self._kept(read_recipe(path, commands().values()))
                ctx.default_map = {**(ctx.default_map or {}), **kept}

        output = functools.partial(Option, section="output", expose_value=False)
        if self.takes_recipe:
            text = "read all other options from this recipe (TOML)"
            yield output("recipe", text, metavar="FILE", callback=take)
        # Eager: they decide how an error in another option is shown.
        flag = functools.partial(output, type=None, is_flag=True, is_eager=True, callback=keep)
        yield flag("json", "print the result as JSON on stdout, the rest on stderr")
        yield flag("quiet", "leave out progress")
        yield flag("debug", "show where an error came from")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record:
                section: Any = getattr(param, "section", None)
                groups.setdefault(_TITLES.get(section, "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def commands() -> dict[str, Command]:
    """Return all commands by name, while one of them is at work."""
    group: Any = click.get_current_context().find_root().command
    return dict(group.commands)


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """Make what is refused within wrong usage: it depends on the words alone, not on files."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


@contextlib.contextmanager
def usage_errors_of_recipe() -> Iterator[None]:
    """Make wrong usage within an error: a recipe is wrong, not the words of the command line."""
    try:
        yield
    except click.UsageError as error:
        raise ValueError(error.format_message()) from None


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def verbatim(text: str) -> str:
    """Return text whose lines click does not join."""
    return "\b\n" + text.replace("\n\n", "\n\n\b\n")


def _is_value(word: str) -> bool:
    return not word.startswith("-") or re.fullmatch(r"-\d+|-\d*\.\d+", word) is not None


def _start_tensorflow() -> None:
    from keras_kd.backend import load_keras
    from keras_kd.system.quiet import capture_output

    load_keras()
    import tensorflow as tf

    with capture_output():
        tf.config.list_logical_devices()
