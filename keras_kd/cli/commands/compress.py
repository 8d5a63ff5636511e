"""`keras-kd compress`: stages that make a student smaller, with distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import click

from keras_kd.cli.command import Checked, Command, Number, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import make_stage
from keras_kd.cli.shared_options import (
    data_options,
    run_options,
    teaching_options,
    validation_needed,
)

STAGE = Checked(make_stage)

# How an option such as --prune becomes a stage: name, what the number is, help.
_SHORTCUTS = (
    ("shrink", "RATIO", "remove this fraction of the channels, such as 0.25"),
    ("low_rank", "ENERGY", "replace layers by two smaller ones that keep this energy, such as 0.9"),
    ("prune", "SPARSITY", "set this fraction of the weights to zero, such as 0.75"),
    ("cluster", "NUMBER", "let the weights of a layer share this number of values, such as 16"),
    ("quantize_aware", "", "train for 8 bits"),
)


class _Shortcut(Option):
    """An option that is a stage among `--stages`, in the order of the command line."""

    def words(self, values: Iterable[str]) -> list[str]:
        """Return the words that give the stage in full.

        Raises:
            click.BadParameter: If there is no such stage; the error names this option.
        """
        found = []
        for value in values:
            amount, _, epochs = value.partition(":") if self.amount else ("", "", value)
            parts = [amount, f"epochs={epochs}" if epochs else ""]
            stage = f"{self.name}({', '.join(part for part in parts if part)})"
            STAGE.convert(stage, self, click.get_current_context())
            found.append(f"--stages={stage}")
        return found

    def __init__(self, name: str, amount: str, help: str) -> None:
        self.amount = amount
        super().__init__(
            name,
            help,
            section="stages",
            metavar=f"{amount}[:EPOCHS]" if amount else "[EPOCHS]",
            empty=None if amount else "",
            expose_value=False,
        )


def stage_shortcuts() -> list[Option]:
    """Return `--prune` and the others."""
    return [_Shortcut(*shortcut) for shortcut in _SHORTCUTS]


COMMAND = Command(
    "compress",
    short_help="prune, cluster, quantize or shrink a student, with distillation",
    help="""\
Make a trained student smaller in stages, with distillation in each. The order is --shrink,
--low-rank, --prune, --cluster, --quantize-aware; any of them may be left out, and another order is
refused before training. Zeros and shared values make the zipped file smaller; --shrink, --low-rank
and 8 bits make the file itself smaller.

The folder given with --out then holds the student (student.keras), a record of every stage in
stages/, result.json and recipe.toml. An interrupted run resumes at the stage and epoch it had
reached.""",
    example="""\
  keras-kd compress --student runs/distill/student.keras --teacher big.keras --data pictures \\
                    --prune 0.75:4 --quantize-aware 2 --max-drop 1.0
  keras-kd compress ... --prune 0.95 --quantize-aware --max-zipped-bytes 40000""",
    params=(
        Option("student", "the trained student: .keras", metavar="FILE", required=True),
        Option("stages", "stages in full, with any argument of their class: 'prune(0.75, "
               "scope=\"global\")'", metavar="STAGE", multiple=True, required=True,
               type=STAGE),
        *data_options(),
        *teaching_options(),
        Option("epochs", "of a stage that does not give its own", type=Number(int, least=0),
               default=2),
        Option("learning_rate", "of a stage that does not give its own (default: the stage's)",
               type=Number(least=0.0), metavar="RATE"),
        Option("max_drop", "points of validation accuracy that the student may lose; a stage that "
               "loses more is tried again more gently, then left out", type=Number(least=0.0),
               metavar="POINTS"),
        Option("max_bytes", "largest .tflite file; finds the gentlest strength of the stages that "
               "reaches it", type=Number(int, least=1), metavar="BYTES"),
        Option("max_zipped_bytes", "the same for the zipped file, where zeros and shared values "
               "count", type=Number(int, least=1), metavar="BYTES"),
        Option("size_of", "the format of the file that --max-bytes limits", default="int8",
               type=click.Choice(["float32", "float16", "dynamic", "int8", "int16x8"])),
        *run_options("runs/compress"),
        *stage_shortcuts(),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Compress, or resume it."""
    import keras

    import keras_kd as kd
    from keras_kd.cli.model_files import load_model, write_notes
    from keras_kd.cli.named import make_stages
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.teaching import (
        compile_distiller,
        damaged_images_named,
        make_distiller,
        notes_of,
        task_data,
        training_batches,
        warn_of_lost_stages,
    )

    limit, zipped = _size_limit(settings)
    if settings["max_drop"] is not None:
        validation_needed(settings, "--max-drop is measured on validation data")
    stages = make_stages(settings["stages"], settings["epochs"], settings["learning_rate"])
    folder = OutFolder(COMMAND, settings, [settings["teacher"], settings["student"]])
    if (done := folder.done(console)) is not None:
        return Outcome(done, _text(done))
    keras.utils.set_random_seed(settings["seed"])
    teacher = load_model(settings["teacher"], settings["custom_objects"])
    student = load_model(settings["student"], settings["custom_objects"])
    warn_of_lost_stages(student, {"Prune", *(type(stage).__name__ for stage in stages)})
    data = task_data(settings, teacher, student, console)
    distiller = make_distiller(settings, teacher, student, data.preprocessing)
    compile_distiller(distiller, student, "adam")
    common: dict[str, Any] = {"stages": stages, "verbose": console.verbose}
    with folder.begun(), damaged_images_named(data):
        train = training_batches(settings, data, distiller, folder.path, console)
        found: dict[str, Any] = {}
        if limit is None:
            compressed = kd.compress(
                distiller,
                train,
                data.validation,
                path=folder.path / "stages",
                max_drop=settings["max_drop"],
                **common,
            )
        else:
            sized = kd.compress_to_size(
                distiller,
                train,
                data.validation,
                max_bytes=limit,
                zipped=zipped,
                quantization=settings["size_of"],
                path=folder.path / "sizes",
                **common,
            )
            compressed = sized.model
            found = {"strength": sized.strength, "zipped" if zipped else "bytes": sized.bytes}
    path = folder.path / "student.keras"
    compressed.save(path)
    notes = notes_of(settings, data)
    write_notes(path, notes)
    lines: list[str] = []
    compressed.summary(lines.append)
    result = folder.finish(
        {
            "model": path.as_posix(),
            "parameters": compressed.count_params(),
            "sparsity": compressed.sparsity,
            **found,
            "stages": [dataclasses.asdict(record) for record in compressed.stages],
            "layers": [vars(record) for record in compressed.layers],
            "history": compressed.history,
            "table": "\n".join(lines),
            "notes": notes,
        }
    )
    return Outcome(result, _text(result))


def _size_limit(settings: dict[str, Any]) -> tuple[int | None, bool]:
    limits = [settings["max_bytes"], settings["max_zipped_bytes"]]
    if None not in limits:
        raise click.UsageError("Give --max-bytes or --max-zipped-bytes, not both.")
    limit = limits[0] if limits[0] is not None else limits[1]
    if limit is not None and settings["max_drop"] is not None:
        raise click.UsageError(
            "--max-drop cannot be combined with a limit on the size, which decides on the strength "
            "of the stages. Leave one out; `keras-kd measure` checks both afterwards."
        )
    return limit, limits[1] is not None


def _text(result: dict[str, Any]) -> str:
    return f"{result['table']}\n{result['model']}: {result['parameters']:,} parameters"
