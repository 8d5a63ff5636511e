"""`keras-kd measure`: measures a TFLite file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import click

from keras_kd.cli.command import Checked, Command, Number, Option, wrong_usage
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_device
from keras_kd.cli.shared_options import data_options, run_options, teacher_input_options

COMMAND = Command(
    "measure",
    short_help="accuracy, size, latency and operators of .tflite files; checks a budget",
    help="""\
Run .tflite files on data and measure accuracy, agreement with the model that they were made from
(--model), bytes, latency and operators. With limits such as --max-bytes the command exits with code
3 if a file exceeds one, for use in scripts.

Without --data, everything but accuracy and agreement is measured, on random inputs. Models (.keras,
.h5) are measured in Keras. The teacher is also written as a float32 .tflite file, so that sizes and
latencies are compared file with file. A TFDS dataset given without a split is read from its test
split, if it has one.""",
    example="""\
  keras-kd measure runs/export/student_int8.tflite --data pictures --part validation \\
                   --model runs/compress/student.keras --max-bytes 40000 --max-drop 1.0""",
    params=(
        click.Argument(["files"], nargs=-1, required=True, metavar="FILE...",
                       help="the .tflite files, and .keras or .h5 models, to measure"),
        *data_options(required=False),
        Option("part", "which part of --data: all of it, or the part that `distill` and `compress` "
               "train on or hold out with this --validation-split and --seed",
               type=click.Choice(["all", "train", "validation"])),
        Option("model", "the model that the files were made from, for their agreement with it and "
               "for --max-drop"),
        Option("teacher", "the teacher, for comparison; without --model, --max-drop is about it",
               metavar="MODEL"),
        *teacher_input_options(),
        Option("max_bytes", "largest file", type=Number(int), metavar="BYTES"),
        Option("max_zipped_bytes", "largest file when it is zipped", type=Number(int),
               metavar="BYTES"),
        Option("max_drop", "points of accuracy that a file may lose against --model or --teacher",
               type=Number(), metavar="POINTS"),
        Option("min_accuracy", "smallest accuracy, from 0 to 1", type=Number(), metavar="PART"),
        Option("min_agreement", "smallest share of equal answers of file and --model, from 0 to 1",
               type=Number(), metavar="PART"),
        Option("max_latency_ms", "largest median latency", type=Number(), metavar="MS"),
        Option("device", "an Arm Ethos-U to estimate the files for, such as ethos-u55-128",
               type=Checked(check_device)),
        Option("min_npu_share", "smallest share of operators on the NPU of --device, from 0 to 1",
               type=Number(), metavar="PART"),
        Option("max_sram", "most on-chip memory of --device", type=Number(int), metavar="BYTES"),
        *run_options(None),
    ),
)  # fmt: skip

_LIMITS = (
    "max_bytes",
    "max_zipped_bytes",
    "max_drop",
    "min_accuracy",
    "min_agreement",
    "max_latency_ms",
    "min_npu_share",
    "max_sram",
)


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Measure, and report which limits are exceeded."""
    import keras_kd as kd
    from keras_kd.cli.measuring import Measuring
    from keras_kd.cli.model_files import load_model
    from keras_kd.cli.out_folder import OutFolder

    given = [settings["model"], settings["teacher"], *settings["files"]]
    folder = None if settings["out"] is None else OutFolder(COMMAND, settings, given)
    if folder is not None and (done := folder.done(console)) is not None:
        return _outcome(done)
    if settings["max_drop"] is not None and settings["model"] is settings["teacher"] is None:
        raise click.UsageError("--max-drop compares with a model: give --model or --teacher.")
    if settings["min_agreement"] is not None and settings["model"] is None:
        raise click.UsageError("--min-agreement compares with a model: give --model.")
    limits = {key: settings[key] for key in _LIMITS if settings[key] is not None}
    if settings["data"] is settings["validation_data"] is None:
        _check_without_data(settings)
    if settings["validation_data"] is not None and settings["part"] is None:
        raise click.UsageError(
            "--validation-data is read with --part validation. Received: no --part. Add it, or "
            "give the data as --data."
        )
    if limits and not any(path.endswith(".tflite") for path in settings["files"]):
        raise click.UsageError(
            f"--{next(iter(limits)).replace('_', '-')} needs a .tflite file, and none is given. "
            "Export the model first: keras-kd export."
        )
    with wrong_usage():
        budget = kd.Budget(**limits)
    for limit in ("min_npu_share", "max_sram"):
        if settings[limit] is not None and settings["device"] is None:
            raise click.UsageError(f"--{limit.replace('_', '-')} needs a device: give --device.")
    model, teacher = (
        load_model(path, settings["custom_objects"]) if path is not None else None
        for path in (settings["model"], settings["teacher"])
    )
    measuring = Measuring(settings, model, teacher, console)
    files: list[dict[str, Any]] = []
    with contextlib.nullcontext() if folder is None else folder.begun():
        for path in dict.fromkeys([*settings["files"], settings["model"], settings["teacher"]]):
            if path is not None:
                console.say(f"Measuring {path}")
                files.append(measuring.measure(path))
    reference = _accuracy(files, settings["model"] or settings["teacher"])
    not_kept = {
        entry["file"]: measuring.not_kept(entry["file"], budget, reference)
        for entry in files
        if entry["kind"] == "tflite"
    }
    result: dict[str, Any] = {
        "data": measuring.data_text,
        "class_names": None if measuring.source is None else measuring.source.class_names,
        "files": files,
        "model": settings["model"],
        "teacher": settings["teacher"],
        "limits": limits,
        "not_kept": {file: sentences for file, sentences in not_kept.items() if sentences},
    }
    return _outcome(result if folder is None else folder.finish(result))


def _check_without_data(settings: Mapping[str, Any]) -> None:
    for name in ("model", "teacher", "part", "min_accuracy", "min_agreement", "max_drop"):
        if settings[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} needs examples: give --data.")
    models = [path for path in settings["files"] if not path.endswith(".tflite")]
    if models:
        raise click.UsageError(
            f"'{models[0]}' is not a .tflite file, so it needs data: give --data."
        )


def _accuracy(files: list[dict[str, Any]], path: str | None) -> float | None:
    return next((entry["accuracy"] for entry in files if entry["file"] == path), None)


def _outcome(result: Mapping[str, Any]) -> Outcome:
    from keras_kd.cli.measuring import device_table, table

    lines = [f"Data: {result['data']}", table(result["files"])]
    costs = [entry["device_cost"] for entry in result["files"] if entry.get("device_cost")]
    lines += [device_table(costs)] if costs else []
    for sentences in result["not_kept"].values():
        lines += [f"Not kept: {sentence}" for sentence in sentences]
    if result["limits"] and not result["not_kept"]:
        models = any(entry["kind"] != "tflite" for entry in result["files"])
        lines.append(f"Every limit is kept{' by the .tflite files' if models else ''}.")
    return Outcome(dict(result), "\n".join(lines), 3 if result["not_kept"] else 0)
