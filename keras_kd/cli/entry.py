"""main: the words of the command line to a command, its errors to one line."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from keras_kd.backend import load_keras
from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.console import Console, Outcome, stdout_to_stderr
from keras_kd.cli.framework.parser import make_parser
from keras_kd.cli.framework.recipe import read_recipe, settings_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words behind the command. Defaults to `None`: those of this process.

    Returns:
        The exit code: 0, 1 after an error, 3 if a budget was not kept, 130 if interrupted. Wrong
        usage ends the process with 2.
    """
    options = make_parser().parse_args(arguments)
    console = Console(options.json, options.quiet)
    try:
        with warnings.catch_warnings():
            # Keras and TensorFlow warn of what the commands do on purpose.
            warnings.filterwarnings("ignore", module="keras|tf_keras|tensorflow")
            warnings.showwarning = _warn
            with stdout_to_stderr(options.json):
                outcome = _run(options, console)
            console.show(outcome)
            return outcome.exit_code
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from here.", console)
        return 130
    except Exception as error:  # whatever happens is said in one line
        if options.debug:
            traceback.print_exc()
        _fail(_line(error), console)
        return 1


def _run(options: argparse.Namespace, console: Console) -> Outcome:
    command = COMMANDS[options.command]
    known = {option.key for option in command.options}
    given = {key: value for key, value in vars(options).items() if key in known}
    recipe = getattr(options, "recipe", None) if command.takes_recipe else None
    tables: dict[str, dict[str, Any]] = read_recipe(recipe, COMMANDS.values()) if recipe else {}
    settings = settings_of(command, tables, given)
    _start_tensorflow()
    return command.run(settings, console)


def _start_tensorflow() -> None:
    from keras_kd.system.quiet import capture_output

    load_keras()
    import tensorflow as tf

    with capture_output():
        tf.config.list_logical_devices()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, OSError, TypeError, ImportError)):
        return text
    if len(text) > 300:
        text = text[:300] + " ..."
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _fail(line: str, console: Console) -> None:
    print(f"keras-kd: {line}", file=sys.stderr, flush=True)
    if console.as_json:
        console.show(Outcome({"error": line}, ""))


def _warn(message: Any, *args: Any, **kwargs: Any) -> None:
    print(f"keras-kd: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
