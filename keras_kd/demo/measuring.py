"""What is measured of the demonstration's models: each one's exported file."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from keras_kd.demo.models import DemoModels
from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.benchmark import benchmark_tflite_files
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.report.build import model_result
from keras_kd.system.files import atomic_path
from keras_kd.system.reading import read_json

Say = Callable[[str], None]
_ROUNDS = 200


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table: a model and the form in which it is exported."""

    key: str
    model: str
    quantization: str
    title: str
    description: str


VARIANTS = (
    Variant("teacher", "teacher", "float32", "Teacher", "Trained on labels; float32."),
    Variant(
        "student_alone",
        "student_alone",
        "float32",
        "Student alone",
        "The student trained on labels, without a teacher; float32.",
    ),
    Variant(
        "distilled",
        "distilled",
        "float32",
        "Distilled",
        "The same student from the same initial weights, taught by the teacher; float32.",
    ),
    Variant("distilled_float16", "distilled", "float16", "Distilled, float16", "float16 weights."),
    Variant(
        "distilled_dynamic",
        "distilled",
        "dynamic",
        "Distilled, dynamic range",
        "int8 weights, float activations.",
    ),
    Variant(
        "distilled_int8",
        "distilled",
        "int8",
        "Distilled, int8 after training",
        "Quantized to int8 by calibration, without further training.",
    ),
    Variant(
        "pruned",
        "pruned",
        "float32",
        "Pruned",
        "Pruned by magnitude while the teacher teaches; float32.",
    ),
    Variant(
        "int8",
        "int8",
        "int8",
        "Pruned, int8",
        "Pruned, then trained for int8 while the teacher teaches; the zeros stay.",
    ),
)


# Of what is kept of a measurement; what an older version kept is measured again.
_FORM = 2


def measure(
    models: DemoModels, trained: dict[str, Any], variant: Variant, seed: int, say: Say
) -> dict[str, Any]:
    """Export a model in the form of `variant` and measure the file, or take what is kept.

    Args:
        models: The models' recipe, data and folder.
        trained: The models by name.
        variant: Which one, and its form.
        seed: Its seed.
        say: Receives the line of progress.

    Returns:
        `file` (what `evaluate_tflite` measured), `parameters`, `nonzero_parameters`, and for the
        first seed `layers`, `other_bytes` and `stages` in the form of a report.
    """
    folder = models.folder if variant.key == "teacher" else models.seed_folder(seed)
    path = folder / f"{variant.key}.tflite"
    kept = folder / f"{variant.key}.measured.json"
    current = path.exists() and path.stat().st_mtime >= _trained_at(folder, variant.model)
    if current and kept.exists():
        measured: dict[str, Any] = read_json(kept)
        if measured.get("form") == _FORM:
            return measured
    model = trained[variant.model]
    if current:
        say(f"Seed {seed}: {variant.title}: measure")
    else:
        say(f"Seed {seed}: {variant.title}: export as {variant.quantization} and measure")
        export_tflite(
            model,
            path,
            quantization=variant.quantization,
            representative_data=models.calibration if variant.quantization == "int8" else None,
            verbose=False,
        )
    result = evaluate_tflite(path, models.test, model=model, batch_size=250)
    row = model_result(variant.key, variant.title, model, result, layers=seed == 0)
    # Of the student as it was taught: what the file computes with, batch normalization included.
    counted = trained["teacher" if variant.key == "teacher" else "distilled"].count_params()
    zeros = row["parameters"] - row["nonzero_parameters"]
    measured = {
        "form": _FORM,
        "file": {**result.to_dict(), "path": _relative_path(variant.key, seed)},
        "parameters": int(counted),
        "nonzero_parameters": int(counted) - zeros,
        **{key: row[key] for key in ("layers", "other_bytes", "stages") if key in row},
    }
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(measured))
    return measured


def _trained_at(folder: pathlib.Path, name: str) -> float:
    """Return when a model was saved, so that a file of an earlier one is not taken for its own."""
    saved = (folder / f"{name}{suffix}" for suffix in (".keras", ".h5"))
    return max((path.stat().st_mtime for path in saved if path.exists()), default=0.0)


def measure_latency(folder: pathlib.Path, measured: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Measure the latencies of the first seed's files side by side, so that ratios hold."""
    paths = {key: folder / _relative_path(key, 0) for key in measured}
    latencies = benchmark_tflite_files(list(paths.values()), rounds=_ROUNDS)
    for key, path in paths.items():
        file, latency = measured[key][0]["file"], latencies[os.fspath(path)].to_dict()
        file.update({name: latency[name] for name in latency if name in file})


def _relative_path(key: str, seed: int) -> str:
    return f"{key}.tflite" if key == "teacher" else f"seed{seed}/{key}.tflite"


def row(
    variant: Variant, measured: dict[int, dict[str, Any]], curves: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the table's row of a variant.

    Args:
        variant: The variant.
        measured: What was measured with each seed.
        curves: The histories of its training.
    """
    first = measured[0]
    keys = ("parameters", "nonzero_parameters", "layers", "other_bytes", "stages")
    return model_result(
        variant.key,
        variant.title,
        file_result={seed: values["file"] for seed, values in measured.items()},
        description=variant.description,
        curves=curves,
        **{key: first[key] for key in keys if key in first},
    )
