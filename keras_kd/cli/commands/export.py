"""`keras-kd export`: a model becomes a TFLite file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keras_kd.cli.command import Checked, Command, Number, Option, wrong_usage
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.named import check_calibration, check_format
from keras_kd.cli.shared_options import (
    DATA_HELP,
    custom_objects_option,
    input_options,
    out_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keras_kd.cli.model_files import LoadedModel
    from keras_kd.planning.quantize_within import QuantizedWithin
# Forms in which single layers may have more bits.
_SPENDING = ("int8", "int16x8", "int4")

COMMAND = Command(
    "export",
    short_help="write a model as TFLite files, in one or several formats",
    help="""\
Write a model as one .tflite file per format. Every file is loaded and run once before it takes its
name. A .json beside it holds the class names and the preprocessing of images.

int8 and int16x8 need some training data (--data) to calibrate the ranges of activations, unless the
model was trained for 8 bits (compress --quantize-aware). With data, every file is
measured: how many of its answers are the model's.""",
    example="""\
  keras-kd export runs/compress/student.keras --quantization int8 --c-array
  keras-kd export small.keras --quantization float32 float16 int8 --data pictures --scale 255""",
    params=(
        click.Argument(["model"], help="a .keras or .h5 file", metavar="MODEL"),
        Option("quantization", "how numbers are stored: float32, float16, weight_only (8-bit "
               "weights), dynamic (the same, computed in integers), int8, int16x8, int4",
               default=["int8"], metavar="FORM", multiple=True,
               type=Checked(check_format)),
        Option("data", f"training data to calibrate with: {DATA_HELP}", section="data"),
        *input_options(),
        Option("class_names", "names of the classes, in order, separated by commas; not needed if "
               "keras-kd stored them with the model", metavar="A,B,C"),
        Option("min_agreement", "the least share of answers that are to be the model's, on samples "
               "of --data kept from calibration", type=Number(least=0.0, most=1.0), default=0.95),
        Option("on_disagreement", "what happens below it: warn, error (no file is written) or "
               "ignore", default="warn", type=click.Choice(["warn", "error", "ignore"])),
        Option("calibration", "how int8 and int16x8 find ranges: auto, minmax, percentile or mse, "
               "the last three also with +equalization and +bias_correction", default="auto",
               metavar="WAY", type=Checked(check_calibration)),
        Option("integer_io", "int8 and int16x8 files take and give integers", type=bool,
               default=False),
        Option("sparse", "store zeros in TFLite's sparse form", type=bool, default=False),
        Option("keep_names", "store the names of inner tensors in the file, not only beside it",
               type=bool, default=False),
        Option("allow_flex", "allow TensorFlow operators in the files, which need a larger runtime",
               type=bool, default=False),
        Option("max_drop", "points of accuracy on --data that int8, int16x8 and int4 files may "
               "lose; layers that cost more get more bits", type=Number(least=0.0),
               metavar="POINTS"),
        Option("c_array", "write each file as C++ source for a microcontroller too; for float32, "
               "int8 and int16x8", type=bool, default=False),
        out_option("runs/export"),
        custom_objects_option(),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Export, unless it is done."""
    import pathlib

    import keras_kd as kd
    from keras_kd.cli.model_files import load_model, write_notes
    from keras_kd.cli.out_folder import OutFolder
    from keras_kd.cli.task_data import training_notes
    from keras_kd.export.options import INTEGER

    if settings["max_drop"] is not None and settings["data"] is None:
        raise click.UsageError("--max-drop needs data with labels: add --data DATA.")
    for form in settings["quantization"]:
        if form in INTEGER:
            with wrong_usage():
                check_calibration(settings["calibration"], form)
        if settings["allow_flex"] and settings["max_drop"] is not None and form in _SPENDING:
            raise click.UsageError(
                f"{form} files within --max-drop have no TensorFlow operators. Received: "
                f"--max-drop {settings['max_drop']:g} --allow-flex. Leave one of the two out."
            )
        if settings["c_array"] and form in ("float16", "weight_only", "dynamic", "int4"):
            raise click.UsageError(
                f"--c-array is for TensorFlow Lite for Microcontrollers, which does not compute "
                f"with {form} files. Export that format separately, without --c-array."
            )
    folder = OutFolder(COMMAND, settings, [settings["model"]])
    if (done := folder.done(console)) is not None:
        return Outcome(done, _text(done))
    loaded = load_model(settings["model"], settings["custom_objects"])
    _check_data(settings, loaded)
    class_names, preprocessing, examples, deciding = _input(settings, loaded)
    stem = pathlib.Path(settings["model"]).stem
    files: list[dict[str, Any]] = []
    with folder.begun():
        for form in settings["quantization"]:
            console.say(f"Exporting as {form}")
            integer = form in INTEGER
            target = folder.path / f"{stem}_{form}.tflite"
            arguments = {
                "representative_data": examples,
                "calibration": settings["calibration"] if integer else "auto",
                "integer_io": settings["integer_io"] and integer,
                "sparse": settings["sparse"],
                "keep_names": settings["keep_names"],
                "class_names": class_names,
                "preprocessing": preprocessing,
                "verbose": False,
            }
            within = None
            if settings["max_drop"] is not None and form in _SPENDING:
                within = kd.quantize_within(
                    loaded.model,
                    deciding,
                    target,
                    max_drop=settings["max_drop"],
                    quantization=form,
                    **arguments,
                )
                console.say(str(within))
                path: Any = within.path
                _hold_to(settings, within, form)
            else:
                path = kd.export_tflite(
                    loaded.model,
                    target,
                    form,
                    min_agreement=settings["min_agreement"],
                    on_disagreement=settings["on_disagreement"],
                    allow_flex=settings["allow_flex"],
                    **arguments,
                )
            if trained := training_notes(loaded.notes):  # what `measure` warns of
                write_notes(path, trained)
            entry: dict[str, Any] = {
                "file": path.as_posix(),
                "form": form,
                "bytes": path.stat().st_size,
                "fidelity": None if path.fidelity is None else path.fidelity.to_dict(),
                "measured": "not measured" if path.fidelity is None else str(path.fidelity),
            }
            if within is not None:
                entry["within"] = within.to_dict()
            if settings["c_array"]:
                made = kd.export_c_array(path, class_names=class_names)
                entry["c_array"] = {
                    "header": pathlib.Path(made.header).as_posix(),
                    "source": pathlib.Path(made.source).as_posix(),
                    "arena_bytes": made.arena_size,
                }
            files.append(entry)
    result = folder.finish(
        {
            "model": settings["model"],
            "files": files,
            "class_names": class_names,
            "preprocessing": preprocessing,
        }
    )
    return Outcome(result, _text(result))


def _hold_to(settings: Mapping[str, Any], within: QuantizedWithin, form: str) -> None:
    """Do what `--on-disagreement` says with a file below `--max-drop` or `--min-agreement`.

    Raises:
        ValueError: If it says "error"; the file is removed.
    """
    from keras_kd.export.fidelity import shortfall
    from keras_kd.litert.metadata import metadata_path
    from keras_kd.system.user_warning import warn_user

    path: Any = within.path
    found = []
    if not within.within:  # of which `quantize_within` warns
        found.append(
            f"'{path}' loses {within.drop:.2f} points of accuracy. Received: --max-drop "
            f"{settings['max_drop']:g}."
        )
    if path.fidelity is not None and path.fidelity.is_poor(settings["min_agreement"]):
        found.append(shortfall(path.fidelity, path, form, settings["min_agreement"]))
        if settings["on_disagreement"] == "warn":
            warn_user(found[-1])
    if found and settings["on_disagreement"] == "error":
        for file in (path, metadata_path(path)):
            file.unlink(missing_ok=True)
        raise ValueError(f"{' '.join(found)} The file was not written.")


def _check_data(settings: dict[str, Any], loaded: LoadedModel) -> None:
    ranges = getattr(loaded.model, "quantization", None) or {}
    trained = ranges.get("activation_bits") == 8
    if settings["data"] is not None:
        return
    for form in settings["quantization"]:
        if form == "int16x8" or (form == "int8" and not trained):
            raise ValueError(
                f"{form} needs some training data to calibrate the ranges of activations: add "
                "--data DATA."
            )


def _input(
    settings: dict[str, Any], loaded: LoadedModel
) -> tuple[list[str] | None, dict[str, Any] | None, Any, Any]:
    """Return the names of the classes, the preprocessing, and examples to calibrate and decide."""
    from keras_kd.cli.preprocessing import resolve_preprocessing
    from keras_kd.cli.sources import open_source
    from keras_kd.cli.task_data import batches, calibration_order, check_classes

    names = known = loaded.notes.get("class_names")
    if settings["class_names"] is not None:
        names = [name.strip() for name in settings["class_names"].split(",")]
        if len(names) != loaded.classes:
            raise ValueError(
                f"--class-names gives {len(names)} names, but '{loaded.path}' has "
                f"{loaded.classes} classes."
            )
        if known is not None and names != known and set(names) == set(known):
            raise ValueError(
                f"--class-names gives the names of '{loaded.path}' in another order. Received: "
                f"{', '.join(names)}. It was trained on {', '.join(known)}: leave the option out."
            )
    stored = loaded.notes.get("preprocessing")
    scale, offset = settings["scale"], settings["offset"]
    if settings["data"] is None:
        if stored is None and scale is None:
            return names, None, None, None
        made = resolve_preprocessing(
            loaded.input_shape, scale, offset, stored, loaded.keras_model, integers=True
        )
        return names, made.to_dict(), None, None
    source = open_source(settings["data"])
    made = resolve_preprocessing(
        loaded.input_shape, scale, offset, stored, loaded.keras_model, source.integers
    )
    order = calibration_order(loaded.notes, source)
    decides = settings["max_drop"] is not None
    if decides:
        check_classes(source, loaded.classes, loaded.path, names)
    count = min(512, len(order) // 4) if decides else 512
    examples = batches(source, order[:count], made, 32)
    deciding = batches(source, order[count : count + 1024], made, 32) if decides else None
    return names or source.class_names, made.to_dict(), examples, deciding


def _text(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{file['file']}: {file['form']}, {file['bytes']:,} bytes, {file.get('measured', '')}"
        for file in result["files"]
    )
