"""`keras-kd search`: from a teacher and limits to the smallest file that is good enough."""

from __future__ import annotations

import functools
from typing import Any

import click

from keras_kd.cli.command import Checked, Command, Number, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_budget, check_device, check_format
from keras_kd.cli.shared_options import (
    DATA_HELP,
    data_options,
    run_options,
    validation_needed,
)

COMMAND = Command(
    "search",
    short_help="the smallest file that is good enough, by trying students, stages and formats",
    help="""\
Shrink the teacher to students of several widths and depths, teach, compress, export and measure
them, and find the files to which no other is superior in size and accuracy. Limits that no file can
keep are refused before training. An interrupted run resumes, and ends with the same files. Needs
KerasTuner: pip install "keras-kd[search]".

The folder given with --out then holds the page, search/report.html, result.json and recipe.toml;
search/trials holds a folder for each file: the file, the student, and what it was made with. Other
students, losses and stages: kd.search in Python.""",
    example="""\
  keras-kd search --teacher big.keras --data pictures --max-bytes 100000 --max-drop 1 --budget 2h
  keras-kd search --teacher big.keras --data digits --widths 0.5 --widths 0.25 --trials 20""",
    params=(
        Option("teacher", "the trained large model: .keras or .h5", section="teaching",
               metavar="FILE", required=True),
        *data_options(),
        Option("test_data", f"test data for the files that are found, used for no choice: "
               f"{DATA_HELP}", section="data", metavar="DATA"),
        Option("max_bytes", "largest .tflite file", type=Number(int, least=1), metavar="BYTES"),
        Option("zipped", "--max-bytes is about the zipped file, in which zeros and shared values "
               "count", type=bool, default=False),
        Option("max_drop", "points of validation accuracy that the file may lie below the teacher",
               type=Number(least=0.0), metavar="POINTS"),
        Option("max_latency_ms", "longest latency, on this machine or --device",
               type=Number(above=0.0), metavar="MS"),
        Option("device", "an Arm Ethos-U whose estimated latency counts, as ethos-u55-128",
               type=Checked(check_device)),
        Option("budget", "time of all trials together, such as 30m, 2h or 1d (default: 2h, unless "
               "--trials is given)", type=Checked(check_budget), metavar="TIME"),
        Option("trials", "number of trials", type=Number(int, least=1), metavar="NUMBER"),
        Option("epochs", "epochs of a whole training", type=Number(int, least=1), default=9),
        Option("learning_rate", "of Adam at the start of each training; it decays to zero",
               type=Number(above=0.0), default=1e-3, metavar="RATE"),
        Option("widths", "the part of the teacher's channels that stays",
               type=Number(above=0.0, most=1.0), default=[0.75, 0.5, 0.35, 0.25, 0.125],
               metavar="PART", multiple=True),
        Option("depths", "the part of its residual blocks that stays",
               type=Number(above=0.0, most=1.0), default=[1.0, 0.5], metavar="PART",
               multiple=True),
        Option("formats", "formats of the files: int8, dynamic, float16, ...",
               default=["int8", "dynamic", "float16"], metavar="FORM", multiple=True,
               type=Checked(check_format)),
        Option("engine", "KerasTuner's oracle (default: hyperband, or bayesian for short searches)",
               type=click.Choice(["hyperband", "random", "bayesian", "grid"])),
        *run_options("runs/search"),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Search, or resume an interrupted search."""
    import keras

    import keras_kd as kd
    from keras_kd.cli.model_files import load_model, write_notes
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.sources import open_source
    from keras_kd.cli.task_data import (
        batches,
        check_same_classes,
        training_notes,
        warn_of_training_data,
    )
    from keras_kd.cli.teaching import damaged_images_named, notes_of, task_data
    from keras_kd.planning.search.trials import decaying_adam

    validation_needed(settings, "`search` chooses by validation data")
    folder = OutFolder(COMMAND, settings, [settings["teacher"]])
    if (done := folder.done(console)) is not None:
        return _outcome(done)
    keras.utils.set_random_seed(settings["seed"])
    teacher = load_model(settings["teacher"], settings["custom_objects"])
    data = task_data(settings, teacher, teacher, console)
    size, test = settings["batch_size"], None
    verbose = not console.quiet and not console.json
    if settings["test_data"] is not None:
        source = open_source(settings["test_data"], "test")
        check_same_classes(data.source, source)
        trained = {"trained_on": data.trainings}
        warn_of_training_data(settings["teacher"], trained, source, None, settings)
        test = batches(source, None, data.preprocessing, size)
    names = (
        "max_bytes", "zipped", "max_drop", "max_latency_ms", "device", "budget", "trials",
        "epochs", "widths", "depths", "formats", "engine", "seed",
    )  # fmt: skip
    with folder.begun(), damaged_images_named(data):
        found = kd.search(
            teacher.keras_model,
            batches(data.source, data.indices, data.preprocessing, size),
            data.validation,
            test_data=test,
            optimizer=functools.partial(decaying_adam, rate=settings["learning_rate"]),
            exporting={
                "class_names": data.class_names,
                "preprocessing": data.preprocessing.to_dict(),
            },
            path=folder.path / "search",
            verbose=verbose,
            **{name: settings[name] for name in names},
        )
    notes = notes_of(settings, data)
    for file in [*found.front, *([found.best] if found.best else [])]:
        write_notes(file.model, notes)
        write_notes(file.file, training_notes(notes))
    result = {**found.to_dict(), "table": str(found)}
    return _outcome(folder.finish(result), with_table=not verbose)  # which `kd.search` printed


def _outcome(result: dict[str, Any], with_table: bool = True) -> Outcome:
    text = f"{result['table']}\n{result['report']}" if with_table else result["report"]
    return Outcome(result, text, exit_code=0 if result["best"] is not None else 3)
