"""`keras-kd check`: what stages and exports will do with each layer, before anything is trained."""

from __future__ import annotations

from typing import Any

import click

from keras_kd.cli.command import Checked, Command, Option
from keras_kd.cli.commands.compress import STAGE, stage_shortcuts
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_format
from keras_kd.cli.shared_options import custom_objects_option

COMMAND = Command(
    "check",
    short_help="report what stages and exports will do with each layer, before training",
    help="""\
Report what each stage of `compress` and each format of `export` will do with each layer of a model,
what will be refused, why, and what to change. Nothing is trained. Without stages, each of the five
is checked separately.

With stages or --exports, the exit code is 1 if one of them will be refused.""",
    example="""\
  keras-kd check small.keras
  keras-kd check small.keras --prune 0.75 --quantize-aware --exports int8 --table""",
    params=(
        click.Argument(["model"], help="a .keras or .h5 file", metavar="MODEL"),
        Option("stages", "stages in full, as in `keras-kd compress`", metavar="STAGE",
               multiple=True, type=STAGE),
        Option("exports", "formats of `keras-kd export` (default: all)", metavar="FORM",
               multiple=True, type=Checked(check_format)),
        Option("convert", "run a trial conversion and name the operators", type=bool,
               default=False),
        Option("table", "one line per layer instead of a summary", type=bool, default=False),
        custom_objects_option(),
        *stage_shortcuts(),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Look at the model."""
    import keras_kd as kd
    from keras_kd.cli.model_files import load_model
    from keras_kd.cli.named import make_stages

    stages = make_stages(settings["stages"] or [])
    loaded = load_model(settings["model"], settings["custom_objects"])
    arguments: dict[str, Any] = {"exports": settings["exports"]} if settings["exports"] else {}
    arguments |= {"convert": settings["convert"], "verbose": not console.quiet}
    found = kd.check(loaded.model, stages or None, **arguments)
    # Without stages, problems of single ones are for information.
    asked = set(found.exports if settings["exports"] or stages else ())
    asked |= {"stages", *found.stages} if stages else set()
    refused = any(problem.where in asked for problem in found.problems)
    text = found.table() if settings["table"] else str(found)
    return Outcome(found.to_dict(), text, 1 if refused else 0)
