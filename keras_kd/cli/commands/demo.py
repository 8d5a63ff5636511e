"""`keras-kd demo`: the whole way, on real data."""

from __future__ import annotations

from typing import Any

import click

from keras_kd.cli.command import Command, Number, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.shared_options import out_option

COMMAND = Command(
    "demo",
    short_help="train, compress, export and measure on real data",
    help="""\
Train a teacher, the student alone and the student with the teacher; prune, quantize, export and
measure each file; print one table and write an HTML page and a JSON beside the files. A run that
was stopped goes on where it was.""",
    example="""\
  keras-kd demo
  keras-kd demo --dataset fashion_mnist --seeds 3""",
    params=(
        Option(
            "dataset", "digits needs no download and takes some 2 minutes; fashion_mnist takes up "
            "to 2 hours on 2 cores", type=click.Choice(["digits", "fashion_mnist"]),
            default="digits",
        ),
        Option("seeds", "students to train, one a seed", type=Number(int, least=1), default=1),
        Option("verbose", "show every epoch of every training", type=bool, default=False),
        out_option(None, "the run's folder (default: exports/DATASET)"),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Run the demonstration."""
    import pathlib

    from keras_kd.cli.recipe import recipe_text, tables_of
    from keras_kd.demo.run import run_demo
    from keras_kd.system.files import atomic_path

    out = settings["out"] or f"exports/{settings['dataset']}"
    result = run_demo(
        settings["dataset"],
        out,
        seeds=settings["seeds"],
        verbose=2 if settings["verbose"] else 0,
        say=console.say,
    )
    with atomic_path(pathlib.Path(out) / "recipe.toml") as temporary:
        text = recipe_text(tables_of(COMMAND, {**settings, "out": str(out)}))
        temporary.write_text(text, encoding="utf-8")
    return Outcome(result or {}, "")
