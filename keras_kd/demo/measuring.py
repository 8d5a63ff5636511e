"""What is measured of the demonstration's models: each one's exported file."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_kd.demo.models import DemoModels
from keras_kd.export import benchmark_tflite_files, evaluate_tflite, export_tflite
from keras_kd.files import atomic_path

Say = Callable[[str], None]


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


def measure(
    models: DemoModels, trained: dict[str, Any], variant: Variant, seed: int, say: Say
) -> dict[str, Any]:
    """Export a model in the form of `variant` and measure the file, or take what is kept."""
    folder = models.folder if variant.key == "teacher" else models.seed_folder(seed)
    path = folder / f"{variant.key}.tflite"
    kept = folder / f"{variant.key}.measured.json"
    if path.exists() and kept.exists():
        measured: dict[str, Any] = json.loads(kept.read_text())
        return measured
    say(f"Seed {seed}: {variant.title}: export as {variant.quantization} and measure")
    model = trained[variant.model]
    export_tflite(
        model,
        path,
        quantization=variant.quantization,
        representative_data=models.calibration if variant.quantization == "int8" else None,
        verbose=False,
    )
    result = evaluate_tflite(path, models.test, model=model, batch_size=250)
    kernels = _kernels(model)
    measured = {
        "accuracy": result.accuracy,
        "agreement": result.agreement,
        "max_difference": result.max_difference,
        "keras_accuracy": models.accuracy(model),
        "bytes": result.bytes,
        "zipped_bytes": result.zipped_bytes,
        "latency_ms_median": result.latency_ms,
        "latency_ms_p90": result.latency_p90_ms,
        "operators": result.operators,
        "parameters": int(
            trained["teacher" if variant.key == "teacher" else "distilled"].count_params()
        ),
        "zeros": int(sum((kernel == 0).sum() for kernel in kernels)),
    }
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(measured))
    return measured


def _kernels(model: Any) -> list[np.ndarray]:
    model = getattr(model, "model", model)
    return [np.asarray(weight) for weight in model.trainable_weights if len(weight.shape) > 1]


def measure_latency(folder: pathlib.Path, measured: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Measure the latencies of the first seed's files side by side, so that ratios hold."""
    paths = {key: folder / _relative_path(key, 0) for key in measured}
    latencies = benchmark_tflite_files(list(paths.values()), rounds=200)
    for key, path in paths.items():
        latency = latencies[os.fspath(path)]
        measured[key][0]["latency_ms_median"] = latency["median_ms"]
        measured[key][0]["latency_ms_p90"] = latency["p90_ms"]


def _relative_path(key: str, seed: int) -> str:
    return f"{key}.tflite" if key == "teacher" else f"seed{seed}/{key}.tflite"


def row(variant: Variant, measured: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the table's row of a variant from what was measured with each seed."""
    first = measured[0]
    return {
        "key": variant.key,
        "title": variant.title,
        "description": variant.description,
        "parameters": first["parameters"],
        "nonzero_parameters": first["parameters"] - first["zeros"],
        "seeds": {
            str(seed): {
                "accuracy": values["accuracy"],
                "keras_accuracy": values["keras_accuracy"],
                "agreement": values["agreement"],
                "bytes": values["bytes"],
                "zipped_bytes": values["zipped_bytes"],
            }
            for seed, values in measured.items()
        },
        "accuracy_of": "file",
        "file": {
            "path": _relative_path(variant.key, 0),
            **{
                key: first[key]
                for key in (
                    "bytes",
                    "zipped_bytes",
                    "latency_ms_median",
                    "latency_ms_p90",
                    "agreement",
                    "max_difference",
                    "operators",
                )
            },
        },
    }
