"""`keras-kd demo`: what a teacher is worth where labels are few."""

from __future__ import annotations

from typing import Any

import click

from keras_kd.cli.command import Command, Number, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.shared_options import out_option

COMMAND = Command(
    "demo",
    short_help="teach, quantize, export and measure on real data",
    help="""\
What a teacher is worth where labels are few: train a large network on a few labeled images, a
small one on the same labels, and once more on what the large one answers to all images. Quantize
the taught one, export and measure each file, with several seeds; print one table and write an HTML
page, a JSON and a model card beside the files. Rerun the command to resume it.""",
    example="""\
  keras-kd demo
  keras-kd demo --dataset fashion_mnist""",
    params=(
        Option(
            "dataset", "digits needs no download and takes 5 to 11 minutes; fashion_mnist "
            "takes about an hour on 2 cores", type=click.Choice(["digits", "fashion_mnist"]),
            default="digits",
        ),
        Option("seeds", "number of seeds", type=Number(int, least=1), default=3),
        Option("first_seed", "the first seed", type=Number(int, least=0), default=0),
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
    from keras_kd.system.files import atomic_path, check_writable

    out = settings["out"] or f"exports/{settings['dataset']}"
    check_writable(pathlib.Path(out) / "report.json")
    result = run_demo(
        settings["dataset"],
        out,
        seeds=settings["seeds"],
        first_seed=settings["first_seed"],
        verbose=2 if settings["verbose"] else 0,
        say=console.say,
    )
    with atomic_path(pathlib.Path(out) / "recipe.toml") as temporary:
        text = recipe_text(tables_of(COMMAND, {**settings, "out": str(out)}))
        temporary.write_text(text, encoding="utf-8")
    return Outcome(result or {}, "")
