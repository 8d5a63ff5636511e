"""`keras-kd benchmark`: every form of a model's file, in one table."""

from __future__ import annotations

from typing import Any

import click

from keras_kd.cli.command import Checked, Command, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_format
from keras_kd.cli.shared_options import DATA_HELP, custom_objects_option, input_options, out_option

COMMAND = Command(
    "benchmark",
    short_help="every form of a model's file in one table: bytes, accuracy, latency",
    help="""\
Write a model in every form, and measure the files on the same data: bytes, accuracy, agreement with
the model, and latency as a ratio to the first form, measured side by side. A refused form is
listed with the reason. --calibration-data is for int8 and int16x8.""",
    example="""\
  keras-kd benchmark runs/distill/student.keras --data digits:test --calibration-data digits:train
  keras-kd benchmark small.keras --data test.npz --scale 255 --quantization float32 dynamic""",
    params=(
        click.Argument(["model"], help="a .keras or .h5 file", metavar="MODEL"),
        Option("data", f"the data to measure on: {DATA_HELP}", section="data", required=True),
        Option("calibration_data", "training data to calibrate with, given in the same way",
               section="data", metavar="DATA"),
        *input_options(),
        Option("quantization", "the forms (default: all)", metavar="FORM", multiple=True,
               type=Checked(check_format)),
        out_option("runs/benchmark"),
        custom_objects_option(),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Write and measure the files."""
    import pathlib

    import keras_kd as kd
    from keras_kd.cli.model_files import load_model, write_notes
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.preprocessing import resolve_preprocessing
    from keras_kd.cli.sources import open_source
    from keras_kd.cli.task_data import (
        batches,
        calibration_order,
        check_classes,
        training_notes,
        warn_of_training_data,
    )
    from keras_kd.export.tflite import QUANTIZATIONS

    folder = OutFolder(COMMAND, settings, [settings["model"]])
    if (done := folder.done(console)) is not None:
        return Outcome(done, done["table"])
    loaded = load_model(settings["model"], settings["custom_objects"])
    source = open_source(settings["data"], "test")
    check_classes(source, loaded.classes, loaded.path, loaded.notes.get("class_names"))
    made = resolve_preprocessing(
        loaded.input_shape,
        settings["scale"],
        settings["offset"],
        loaded.notes.get("preprocessing"),
        loaded.keras_model,
        source.integers,
    )
    samples = None
    if settings["calibration_data"] is not None:
        training = open_source(settings["calibration_data"])
        order = calibration_order(loaded.notes, training)
        samples = batches(training, order[:512], made, 32)
    seen = warn_of_training_data(loaded.path, loaded.notes, source, None, {})
    with folder.begun():
        found = kd.export_all(
            loaded.model,
            folder.path,
            batches(source, None, made, 32),
            quantizations=settings["quantization"] or QUANTIZATIONS,
            representative_data=samples,
            name=pathlib.Path(settings["model"]).stem,
            class_names=loaded.notes.get("class_names") or source.class_names,
            preprocessing=made.to_dict(),
            verbose=False,
        )
        for path in folder.path.glob("*.tflite"):
            write_notes(path, training_notes(loaded.notes))
    result = folder.finish({"forms": found.to_dict(), "trained_on": seen, "table": str(found)})
    return Outcome(result, str(found))
