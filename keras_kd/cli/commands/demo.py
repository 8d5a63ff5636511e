"""`keras-kd demo`: the whole way, on real data."""

from __future__ import annotations

from typing import Any

from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.framework.command import Command
from keras_kd.cli.framework.option import Option

COMMAND = Command(
    name="demo",
    summary="train, compress, export and measure on real data",
    description="""\
Train a teacher, the student alone and the student with the teacher; prune, quantize, export and
measure each file; print one table and write an HTML page and a JSON beside the files. A run that
was stopped goes on where it was.""",
    example="""\
  keras-kd demo
  keras-kd demo --dataset fashion_mnist --seeds 3""",
    options=(
        Option(
            "dataset",
            "text",
            "digits needs no download and takes some 2 minutes; fashion_mnist takes up to 2 hours "
            "on 2 cores",
            default="digits",
            choices=("digits", "fashion_mnist"),
        ),
        Option("seeds", "integer", "students to train, one a seed", default=1, least=1),
        Option("verbose", "switch", "show every epoch of every training", default=False),
        Option(
            "out", "text", "the run's folder (default: exports/DATASET)", section="",
            metavar="FOLDER",
        ),
    ),
    module="keras_kd.cli.commands.demo",
)  # fmt: skip


def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Run the demonstration."""
    import pathlib

    from keras_kd.cli.framework.recipe import recipe_text, tables_of
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
