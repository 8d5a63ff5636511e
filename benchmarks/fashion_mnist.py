"""The whole chain on Fashion-MNIST with all its labels: the table of docs/measured/chains.md.

    python benchmarks/fashion_mnist.py --seeds 3

A residual teacher, the student alone and taught, pruned, quantized, and what every exported file
does. Takes up to 2 hours on 2 cores. Every part is kept in `--out` as soon as it is done; rerun the
command to resume. Other benchmarks begin with the models it leaves there.
"""

import argparse
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
from fashion_data import load_images
from fashion_models import RECIPES, History, Models

import keras_kd as kd
from keras_kd.report.histories import curves_of
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.json_values import plain
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
    models: Models, trained: dict[str, Any], variant: Variant, seed: int, say: Say
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
        kd.export_tflite(
            model,
            path,
            quantization=variant.quantization,
            representative_data=models.calibration if variant.quantization == "int8" else None,
            verbose=False,
        )
    result = kd.evaluate_tflite(path, models.test, model=model, batch_size=250)
    row = kd.report.model_result(variant.key, variant.title, model, result, layers=seed == 0)
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
    latencies = kd.benchmark_tflite_files(list(paths.values()), rounds=_ROUNDS)
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
    return kd.report.model_result(
        variant.key,
        variant.title,
        file_result={seed: values["file"] for seed, values in measured.items()},
        description=variant.description,
        curves=curves,
        **{key: first[key] for key in keys if key in first},
    )


_STAGES = {
    "teacher": "Teacher",
    "student_alone": "Student alone",
    "distilled": "Student with the teacher",
    "prune": "Pruning, with the teacher",
    "quantize_aware": "Quantization-aware training, with the teacher",
}


def _train_students(
    models: Models, teacher: keras.Model, seed: int, say: Say
) -> tuple[dict[str, Any], dict[str, History]]:
    """Return the models of one seed, and the histories of their training."""
    recipe = models.recipe
    trained: dict[str, Any] = {"teacher": teacher}
    histories: dict[str, History] = {}
    say(f"Seed {seed}: student alone, {recipe.student_epochs} epochs")
    trained["student_alone"], histories["student_alone"] = models.student_alone(seed)
    say(f"Seed {seed}: student with the teacher, {recipe.student_epochs} epochs")
    student, histories["distilled"] = models.distilled(teacher, seed)
    trained["distilled"] = student
    if seed < recipe.compressed_seeds:
        say(f"Seed {seed}: pruning to {recipe.sparsity:.0%} zeros, {recipe.prune_epochs} epochs")
        pruned, histories["prune"] = models.pruned(teacher, student, seed)
        trained["pruned"] = pruned
        say(f"Seed {seed}: quantization-aware training, {recipe.quantize_epochs} epochs")
        trained["int8"], histories["quantize_aware"] = models.quantized(teacher, pruned.model, seed)
    return trained, histories


# Whose training a stage is.
_STAGE_OF = {
    "teacher": "teacher",
    "student_alone": "student_alone",
    "distilled": "distilled",
    "pruned": "prune",
    "int8": "quantize_aware",
}


def _curves(key: str, histories: dict[str, dict[int, History]]) -> list[dict[str, Any]]:
    """Return the training curves of a row, one per seed."""
    stage = _STAGE_OF.get(key)
    if stage is None:
        return []
    curves = curves_of(_STAGES[stage], histories[stage])
    return [{**curve, "stage": stage} for curve in curves]


def _check_recipe(folder: pathlib.Path, recipe: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    recipe = plain(recipe)
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(recipe, indent=2))
    elif read_json(path) != recipe:
        raise ValueError(
            f"'{folder}' holds a run of another recipe (see {path.name} in it), which this run "
            "cannot resume. Give another folder with --out, or remove that one."
        )


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
        [
            f"One teacher; the student trained with {seeds} seeds: mean ± sample standard "
            "deviation. Students pruned and quantized, from the first seed on: "
            f"{min(seeds, recipe.compressed_seeds)}."
        ]
        if seeds > 1
        else ["One seed: differences of a few tenths of a point may be chance."]
    )


def run(dataset: str, folder: pathlib.Path, seeds: int, verbose: int = 0, say: Say = print) -> dict:
    """Run the chain, or what an earlier run of it left to do, and return its result."""
    recipe = RECIPES[dataset]
    check_writable(folder / "report.json")
    _check_recipe(folder, dataclasses.asdict(recipe))
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = Models(recipe, data, folder, verbose)
    if (folder / "teacher.keras").exists():
        say(f"Going on with the run in {folder}: what is there is not trained again")
    say(f"Teacher: {recipe.teacher_epochs} epochs on {len(data.train[0])} images")
    teacher, teacher_history = models.teacher()
    histories = {"teacher": {0: teacher_history}}
    say(f"The teacher's answers to {recipe.views} views of every image")
    seconds = {
        "teacher": teacher_history["seconds"],
        "teacher's outputs": models.teacher_outputs(teacher)[1],
    }
    measured: dict[str, dict[int, dict[str, Any]]] = {variant.key: {} for variant in VARIANTS}
    for seed in range(seeds):
        trained, of_seed = _train_students(models, teacher, seed, say)
        for stage, history in of_seed.items():
            histories.setdefault(stage, {})[seed] = history
            seconds[f"{stage}, seed {seed}"] = history["seconds"]
        for variant in VARIANTS:
            if variant.model in trained and (seed == 0 or variant.key != "teacher"):
                measured[variant.key][seed] = measure(models, trained, variant, seed, say)

    say("Latency: all files side by side")
    measure_latency(folder, measured)
    result = kd.report.make_result(
        f"keras_kd on {dataset}",
        [
            row(variant, measured[variant.key], _curves(variant.key, histories))
            for variant in VARIANTS
        ],
        dataset=dataset,
        classes=data.class_names,
        command=f"python benchmarks/fashion_mnist.py --seeds {seeds} --out {_shown(folder)}",
        recipe=dataclasses.asdict(recipe),
        seconds=seconds,
        notes=_notes(recipe, data, seeds),
    )
    page, _ = kd.report.write_report(result, folder)
    card = kd.report.model_card(result, folder / "model_card.md", overwrite=True)
    say("")
    say(kd.report.format_table(result))
    say(f"Page: {page}")
    say(f"Model card: {card}")
    return result


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=RECIPES, default="fashion_mnist")
    parser.add_argument("--out", help="the run's folder [exports/<dataset>]")
    parser.add_argument("--seeds", type=int, default=1, help="students, one per seed [1]")
    parser.add_argument("--verbose", type=int, default=0, help="as in `Model.fit` [0]")
    chosen = parser.parse_args(argv)
    if chosen.seeds < 1:
        parser.error("--seeds must be at least 1")
    folder = pathlib.Path(chosen.out or f"exports/{chosen.dataset}")
    return run(chosen.dataset, folder, chosen.seeds, chosen.verbose)


if __name__ == "__main__":
    main()
