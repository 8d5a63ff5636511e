"""main: the words of the command line to a command, its errors to one line."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from keras_kd._version import __version__
from keras_kd.cli.command import CONTEXT, EXIT_CODES, verbatim
from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.console import Console, Outcome
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.system.shown_text import shown

_DESCRIPTION = """\
Turn a large Keras model into a small TFLite file, and measure the file.

With a trained model, big.keras, and a folder with one subfolder of images per class:

  keras-kd distill  --teacher big.keras --student shrink:0.5 --data pictures --scale 255
  keras-kd compress --student runs/distill/student.keras --teacher big.keras --data pictures \\
                    --prune 0.5 --quantize-aware
  keras-kd export   runs/compress/student.keras --quantization int8
  keras-kd measure  runs/export/*.tflite --data pictures --part validation --max-bytes 100000

Rerun an interrupted command to resume it. Each command writes a recipe that repeats it."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(self.commands)


GROUP = click.version_option(__version__, message="keras-kd %(version)s")(
    _Commands(
        "keras-kd",
        commands=COMMANDS,
        help=verbatim(_DESCRIPTION),
        epilog=verbatim(EXIT_CODES),
        context_settings=CONTEXT,
        subcommand_metavar="COMMAND ...",
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words behind the command. Defaults to `None`: those of this process.

    Returns:
        The exit code: 0, 1 after an error, 2 after wrong usage, 3 if a budget was exceeded, 130 if
        interrupted.
    """
    console = Console()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings(), without_retracing_warnings():
            # Keras and TensorFlow warn of what the commands do on purpose.
            warnings.filterwarnings("ignore", module="keras|tf_keras|tensorflow")
            warnings.showwarning = _warn
            with GROUP.make_context("keras-kd", words, obj=console) as context:
                outcome: Outcome = GROUP.invoke(context)
            console.show(outcome)
            return outcome.exit_code
    except click.exceptions.Exit as stop:  # after --help and --version
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        _show_error(error.format_message(), console)
        return error.exit_code
    except KeyboardInterrupt:
        _fail("interrupted; rerun the command to resume.", console)
        return 130
    except Exception as error:  # any error becomes one line
        if console.debug:
            traceback.print_exc()
        _fail(_line(error), console)
        return 1


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, OSError, TypeError, ImportError)):
        return text
    if len(text) > 300:
        text = text[:300] + " ..."
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _fail(line: str, console: Console) -> None:
    print(f"keras-kd: {shown(line)}", file=sys.stderr, flush=True)
    _show_error(line, console)


def _show_error(line: str, console: Console) -> None:
    if console.json:
        console.show(Outcome({"error": line}, ""))


def _warn(message: Any, *args: Any, **kwargs: Any) -> None:
    line = shown(" ".join(str(message).split()))
    print(f"keras-kd: warning: {line}", file=sys.stderr, flush=True)
