"""The demonstration: teach, prune, quantize, export and measure, on real data.

Every part is kept in the run's folder as soon as it is done; the same command goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import keras

from keras_kd.demo.data import load_images
from keras_kd.demo.measuring import VARIANTS, Say, measure, measure_latency, row
from keras_kd.demo.models import DemoModels
from keras_kd.demo.recipes import RECIPES
from keras_kd.demo.training import History
from keras_kd.report import format_table, make_result, model_card, write_report
from keras_kd.report.histories import curves_of
from keras_kd.system.arguments import number
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.json_values import plain
from keras_kd.system.reading import read_json


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
    number("seeds", seeds, least=1, whole=True)
    recipe = RECIPES[dataset]
    folder = pathlib.Path(out)
    check_writable(folder / "report.json")
    _check_recipe(folder, dataclasses.asdict(recipe))
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = DemoModels(recipe, data, folder, verbose)

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
    result = make_result(
        f"keras_kd on {dataset}",
        [
            row(variant, measured[variant.key], _curves(variant.key, histories))
            for variant in VARIANTS
        ],
        dataset=dataset,
        classes=data.class_names,
        command=f"keras-kd demo --dataset {dataset} --seeds {seeds} --out {_shown(folder)}",
        recipe=dataclasses.asdict(recipe),
        seconds=seconds,
        notes=_notes(recipe, data, seeds),
    )
    page, _ = write_report(result, folder)
    card = model_card(result, folder / "model_card.md", overwrite=True)
    say("")
    say(format_table(result))
    say(f"Page: {page}")
    say(f"Model card: {card}")
    return result


_STAGES = {
    "teacher": "Teacher",
    "student_alone": "Student alone",
    "distilled": "Student with the teacher",
    "prune": "Pruning, with the teacher",
    "quantize_aware": "Quantization-aware training, with the teacher",
}


def _train_students(
    models: DemoModels, teacher: keras.Model, seed: int, say: Say
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
    """Return the curves of a row's training, one a seed."""
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
            "cannot go on with. Give another folder with --out, or remove that one."
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
