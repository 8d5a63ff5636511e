"""The demonstration: teach, prune, quantize, export and measure, on real data.

Every part is kept in the run's folder as soon as it is done; the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_kd.compression.compressed_model import CompressedModel
from keras_kd.demo.data import load_images
from keras_kd.demo.models import DemoModels
from keras_kd.demo.recipes import RECIPES
from keras_kd.demo.training import History
from keras_kd.export import benchmark_tflite_files, evaluate_tflite, export_tflite
from keras_kd.files import atomic_path, check_writable
from keras_kd.report import format_table, write_report

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


def run_demo(
    dataset: str,
    out: str | os.PathLike[str],
    *,
    seeds: int = 1,
    verbose: int = 0,
    say: Say = print,
) -> dict[str, Any]:
    """Run the demonstration, or what an earlier run of it left to do.

    Args:
        dataset: `"digits"` or `"fashion_mnist"`.
        out: The run's folder.
        seeds: How many students are trained, with the seeds 0, 1, ... and one teacher. Defaults
            to `1`.
        verbose: Verbosity of training, as in `keras.Model.fit`. Defaults to `0`.
        say: Receives each line of progress. Defaults to `print`.

    Returns:
        The result, in the form of `keras_kd.report.schema.Result`.

    Raises:
        ValueError: If there is no recipe for the data set, `seeds` is below 1, or the folder
            holds a run of another recipe.
        OSError: If the folder cannot be written to.
    """
    if dataset not in RECIPES:
        raise ValueError(
            f"There is no demonstration for data set {dataset!r}; choose one of: "
            f"{', '.join(RECIPES)}."
        )
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1, but received {seeds}.")
    recipe = RECIPES[dataset]
    folder = pathlib.Path(out)
    check_writable(folder / "report.json")
    _check_recipe(folder, dataclasses.asdict(recipe))
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = DemoModels(recipe, data, folder, verbose)

    say(f"Teacher: {recipe.teacher_epochs} epochs on {len(data.train[0])} images")
    teacher, teacher_history = models.teacher()
    curves = [_curve("Teacher", "teacher", None, teacher_history)]
    seconds = {"teacher": teacher_history["seconds"]}
    measured: dict[str, dict[int, dict[str, Any]]] = {variant.key: {} for variant in VARIANTS}
    layers: list[dict[str, Any]] = []
    for seed in range(seeds):
        trained, compressed, histories = _train_students(models, teacher, seed, say)
        for stage, history in histories.items():
            curves.append(_curve(_STAGES[stage], stage, seed, history))
            seconds[f"{stage}, seed {seed}"] = history["seconds"]
        for variant in VARIANTS:
            if variant.key == "teacher" and seed > 0:
                continue
            measured[variant.key][seed] = _measure(models, trained, variant, seed, say)
        if seed == 0:
            layers = [_layer(record) for record in compressed.layers]

    say("Latency: all files side by side")
    _measure_latency(folder, measured)
    result = {
        "title": f"keras_kd on {dataset}",
        "dataset": dataset,
        "classes": data.class_names,
        "command": f"keras-kd demo --dataset {dataset} --seeds {seeds} --out {_shown(folder)}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "seeds": list(range(seeds)),
        "environment": _environment(),
        "recipe": dataclasses.asdict(recipe),
        "seconds": seconds,
        "models": [_row(variant, measured[variant.key]) for variant in VARIANTS],
        "curves": curves,
        "layers": layers,
        "layers_of": "int8",
        "notes": _notes(recipe, data, seeds),
    }
    page, _ = write_report(result, folder)
    say("")
    say(format_table(result))
    say(f"Page: {page}")
    return result


_STAGES = {
    "student_alone": "Student alone",
    "distilled": "Student with the teacher",
    "prune": "Pruning, with the teacher",
    "quantize_aware": "Quantization-aware training, with the teacher",
}


def _train_students(
    models: DemoModels, teacher: keras.Model, seed: int, say: Say
) -> tuple[dict[str, Any], CompressedModel, dict[str, History]]:
    recipe = models.recipe
    say(f"Seed {seed}: student alone, {recipe.student_epochs} epochs")
    alone, alone_history = models.student_alone(seed)
    say(f"Seed {seed}: student with the teacher, {recipe.student_epochs} epochs")
    distilled, distilled_history = models.distilled(teacher, seed)
    say(f"Seed {seed}: pruning to {recipe.sparsity:.0%} zeros, {recipe.prune_epochs} epochs")
    pruned, prune_history = models.pruned(teacher, distilled, seed)
    say(f"Seed {seed}: quantization-aware training, {recipe.quantize_epochs} epochs")
    int8, quantize_history = models.quantized(teacher, pruned.model, seed)
    trained = {
        "teacher": teacher,
        "student_alone": alone,
        "distilled": distilled,
        "pruned": pruned,
        "int8": int8,
    }
    histories = {
        "student_alone": alone_history,
        "distilled": distilled_history,
        "prune": prune_history,
        "quantize_aware": quantize_history,
    }
    return trained, int8, histories


def _measure(
    models: DemoModels, trained: dict[str, Any], variant: Variant, seed: int, say: Say
) -> dict[str, Any]:
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


def _measure_latency(folder: pathlib.Path, measured: dict[str, dict[int, dict[str, Any]]]) -> None:
    paths = {key: folder / _relative_path(key, 0) for key in measured}
    latencies = benchmark_tflite_files(list(paths.values()), rounds=200)
    for key, path in paths.items():
        latency = latencies[os.fspath(path)]
        measured[key][0]["latency_ms_median"] = latency["median_ms"]
        measured[key][0]["latency_ms_p90"] = latency["p90_ms"]


def _relative_path(key: str, seed: int) -> str:
    return f"{key}.tflite" if key == "teacher" else f"seed{seed}/{key}.tflite"


def _row(variant: Variant, measured: dict[int, dict[str, Any]]) -> dict[str, Any]:
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


def _curve(title: str, stage: str, seed: int | None, history: History) -> dict[str, Any]:
    series = {
        key: values
        for key, values in history.items()
        if isinstance(values, list) and key not in ("epoch", "total_loss", "val_total_loss")
    }
    epochs = len(next(iter(series.values())))
    return {
        "title": title,
        "stage": stage,
        "seed": seed,
        "epochs": list(range(1, epochs + 1)),
        "series": series,
    }


def _check_recipe(folder: pathlib.Path, recipe: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    recipe = json.loads(json.dumps(recipe))
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(recipe, indent=2))
    elif json.loads(path.read_text()) != recipe:
        raise ValueError(
            f"'{folder}' holds a run of another recipe (see {path.name} in it), which this run "
            "cannot go on with. Give another folder with --out, or remove that one."
        )


def _versions() -> dict[str, str]:
    names = (
        "keras-kd",
        "keras",
        "tensorflow",
        "tf-keras",
        "tensorflow-model-optimization",
        "ai-edge-litert",
        "numpy",
    )
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _environment() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"cores": os.cpu_count(), "processor": processor, "system": platform.system()}


def _shown(folder: pathlib.Path) -> str:
    """Return the folder as a command can repeat it, without the path of this machine."""
    try:
        return folder.resolve().relative_to(pathlib.Path.cwd()).as_posix()
    except ValueError:
        return folder.name


def _notes(recipe: Any, data: Any, seeds: int) -> list[str]:
    return [
        f"Accuracy is that of the exported file on all {len(data.test[0])} test images.",
        f"The last {recipe.validation_examples} training images are the validation data of the "
        "curves.",
        "Latencies were measured side by side, one image at a time, on one thread of this "
        "machine: read them as ratios. int8 kernels are made for Arm processors.",
    ] + (
        [f"One teacher; each student trained with {seeds} seeds: mean ± sample standard deviation."]
        if seeds > 1
        else ["One seed: differences of a few tenths of a point may be chance."]
    )


def _layer(record: Any) -> dict[str, Any]:
    return {
        "name": record.name,
        "class": record.class_name,
        "parameters": record.parameters,
        "sparsity": record.sparsity,
        "bits": record.bits,
        "what": "; ".join(str(part) for part in (*record.done, *record.not_done)),
    }
