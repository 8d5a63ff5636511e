"""The words that `keras-kd` understands."""

from __future__ import annotations

import argparse

from keras_kd._version import __version__
from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.framework.command import Command

_DESCRIPTION = """\
Turn a large Keras model into a small TFLite file, and measure the file.

You have a trained model, big.keras, and a folder with one subfolder of pictures for each class:

  keras-kd distill  --teacher big.keras --student shrink:0.5 --data pictures --scale 255
  keras-kd compress --student runs/distill/student.keras --teacher big.keras --data pictures \\
                    --prune 0.5 --quantize-aware
  keras-kd export   runs/compress/student.h5 --quantization int8
  keras-kd measure  runs/export/*.tflite --data pictures --part validation --max-bytes 100000

Each command goes on where it was stopped, and writes a recipe that repeats it."""

_EXIT_CODES = """\
exit codes: 0 done; 1 an error, said in one line on stderr; 2 wrong usage; 3 a budget was not kept;
130 interrupted (the same command goes on)"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-kd",
        allow_abbrev=False,
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"keras-kd {__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )
    for command in COMMANDS.values():
        _add(commands, command)
    return parser


_TITLES = {"data": "data", "teaching": "teaching", "": "run"}


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    parser = commands.add_parser(
        command.name,
        allow_abbrev=False,
        help=command.summary,
        description=command.description,
        epilog=f"example:\n{command.example}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, argparse._ActionsContainer] = {command.name: parser}
    for option in command.options:
        section = command.section(option)
        if section not in groups:
            groups[section] = parser.add_argument_group(_TITLES[section])
        option.add_to(groups[section])
    for shortcut in command.shortcuts:
        shortcut(parser)
    group = parser.add_argument_group("how it is said")
    if command.takes_recipe:
        group.add_argument(
            "--recipe", metavar="FILE", help="take what is not given here from this recipe (TOML)"
        )
    group.add_argument(
        "--json", action="store_true", help="print the result as JSON on stdout, the rest on stderr"
    )
    group.add_argument("--quiet", action="store_true", help="leave out progress")
    group.add_argument("--debug", action="store_true", help="show where an error came from")
