"""`keras-kd check`: what stages and exports will do with each layer, before anything is trained."""

from __future__ import annotations

from typing import Any

from keras_kd.cli.commands.compress import add_shortcuts
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.framework.command import Command
from keras_kd.cli.framework.option import Option
from keras_kd.cli.framework.shared_options import custom_objects_option

COMMAND = Command(
    name="check",
    summary="say what stages and exports will do with each layer, before any training",
    description="""\
Say what each stage of `compress` and each form of `export` will do with each layer of a model, and
what will be refused, why, and what to change. Nothing is trained. Without stages, each of the five
is looked at for itself.

With stages or --exports, the exit code is 1 where one of them will be refused.""",
    example="""\
  keras-kd check small.keras
  keras-kd check small.keras --prune 0.75 --quantize-aware --exports int8 --table""",
    options=(
        Option("model", "text", "a .keras or .h5 file", metavar="MODEL", positional=True,
               required=True),
        Option("stages", "texts", "stages in full, as in `keras-kd compress`", metavar="STAGE"),
        Option("exports", "texts", "forms of `keras-kd export` (default: all)", metavar="FORM"),
        Option("convert", "switch", "convert on trial and name the operators", default=False),
        Option("table", "switch", "a line for each layer instead of a summary", default=False),
        custom_objects_option(),
    ),
    module="keras_kd.cli.commands.check",
    shortcuts=(add_shortcuts,),
)  # fmt: skip


def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Look at the model."""
    import keras_kd as kd
    from keras_kd.cli.model_files import load_model
    from keras_kd.cli.named import make_stages

    stages = make_stages(settings["stages"] or [])
    loaded = load_model(settings["model"], settings["custom_objects"])
    exports = {"exports": settings["exports"]} if settings["exports"] else {}
    found = kd.check(loaded.model, stages or None, convert=settings["convert"], **exports)
    # Without stages, what single ones would refuse is for information.
    asked = set(found.exports if settings["exports"] or stages else ())
    asked |= {"stages", *found.stages} if stages else set()
    refused = any(problem.where in asked for problem in found.problems)
    text = found.table() if settings["table"] else str(found)
    return Outcome(found.to_dict(), text, 1 if refused else 0)
