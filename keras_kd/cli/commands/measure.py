"""`keras-kd measure`: what a TFLite file does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.framework.command import Command
from keras_kd.cli.framework.option import Option
from keras_kd.cli.framework.shared_options import data_options, run_options

COMMAND = Command(
    name="measure",
    summary="accuracy, size, latency and operators of .tflite files; checks a budget",
    description="""\
Run .tflite files on data and measure what they do: accuracy, agreement with the model that they
were made from (--model), bytes, latency, operators. Limits such as --max-bytes make the command end
with the exit code 3 where a file does not keep them, for use in scripts.

Models (.keras, .h5) among the files are measured as well, in Keras. Of a TFDS data set that is
given without a split, the split test is taken where there is one.""",
    example="""\
  keras-kd measure runs/export/student_int8.tflite --data pictures --part validation \\
                   --model runs/compress/student.h5 --max-bytes 40000 --max-drop 1.0""",
    options=(
        Option("files", "texts", "what to measure: .tflite files, and .keras or .h5 models",
               metavar="FILE", positional=True, required=True),
        *data_options(),
        Option("part", "text", "which part of --data: all of it, or what `distill` and `compress` "
               "train on or hold out, given their --validation-split and --seed",
               choices=("all", "train", "validation")),
        Option("model", "text", "the model that the files were made from, for their agreement with "
               "it and for --max-drop", metavar="MODEL"),
        Option("teacher", "text", "the teacher, to stand beside them; --max-drop is about it where "
               "there is no --model", metavar="MODEL"),
        Option("teacher_scale", "number", "--scale of the teacher, where it differs",
               section="teaching", metavar="SCALE"),
        Option("teacher_offset", "number", "--offset of the teacher, where it differs",
               section="teaching", metavar="OFFSET"),
        Option("max_bytes", "integer", "largest file", metavar="BYTES"),
        Option("max_zipped_bytes", "integer", "largest file when it is zipped", metavar="BYTES"),
        Option("max_drop", "number", "points of accuracy that a file may lose against --model or "
               "--teacher", metavar="POINTS"),
        Option("min_accuracy", "number", "smallest accuracy, from 0 to 1", metavar="PART"),
        Option("min_agreement", "number", "smallest part of equal answers of file and --model, "
               "from 0 to 1", metavar="PART"),
        Option("max_latency_ms", "number", "largest median latency", metavar="MS"),
        *run_options(None),
    ),
    module="keras_kd.cli.commands.measure",
)  # fmt: skip

_LIMITS = (
    "max_bytes",
    "max_zipped_bytes",
    "max_drop",
    "min_accuracy",
    "min_agreement",
    "max_latency_ms",
)


def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Measure, and say which limits are not kept."""
    from keras_kd.cli.measuring import Measuring
    from keras_kd.cli.model_files import load_model
    from keras_kd.cli.out_folder import OutFolder

    given = [settings["model"], settings["teacher"], *settings["files"]]
    folder = None if settings["out"] is None else OutFolder(COMMAND, settings, given)
    if folder is not None and (done := folder.done(console)) is not None:
        return _outcome(done)
    if settings["max_drop"] is not None and settings["model"] is settings["teacher"] is None:
        raise ValueError("--max-drop is against a model: give --model, or --teacher.")
    if settings["min_agreement"] is not None and settings["model"] is None:
        raise ValueError("--min-agreement is about a model: give --model.")
    model, teacher = (
        load_model(path, settings["custom_objects"]) if path is not None else None
        for path in (settings["model"], settings["teacher"])
    )
    measuring = Measuring(settings, model, teacher, console)
    files: list[dict[str, Any]] = []
    for path in dict.fromkeys([*settings["files"], settings["model"], settings["teacher"]]):
        if path is not None:
            console.say(f"Measuring {path}")
            files.append(measuring.measure(path))
    reference = _accuracy(files, settings["model"] or settings["teacher"])
    limits = {key: settings[key] for key in _LIMITS if settings[key] is not None}
    not_kept = {
        entry["file"]: measuring.not_kept(entry["file"], limits, reference)
        for entry in files
        if entry["kind"] == "tflite"
    }
    result: dict[str, Any] = {
        "data": measuring.data_text,
        "class_names": measuring.source.class_names,
        "files": files,
        "model": settings["model"],
        "teacher": settings["teacher"],
        "limits": limits,
        "not_kept": {file: sentences for file, sentences in not_kept.items() if sentences},
    }
    if folder is not None:
        with folder.begun():
            result = folder.finish(result)
    return _outcome(result)


def _accuracy(files: list[dict[str, Any]], path: str | None) -> float | None:
    return next((entry["accuracy"] for entry in files if entry["file"] == path), None)


def _outcome(result: Mapping[str, Any]) -> Outcome:
    from keras_kd.cli.measuring import table

    lines = [f"Data: {result['data']}", table(result["files"])]
    for sentences in result["not_kept"].values():
        lines += [f"Not kept: {sentence}" for sentence in sentences]
    if result["limits"] and not result["not_kept"]:
        lines.append("Every limit is kept.")
    return Outcome(dict(result), "\n".join(lines), 3 if result["not_kept"] else 0)
