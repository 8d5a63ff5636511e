"""The demonstration: few labels, many images without labels, and what a teacher makes of them.

A program as a user writes it, with the public names of keras_kd alone. For every seed: draw a few
labeled images; train a large network on them; train a small one on the same labels, and once more
on what the large one answers to all images, whose labels nobody looks at. The taught one is
quantized with distillation, exported, and its file is measured on the test images.

The test images decide nothing: of two ways to train each student, the one that is better on
training images which were held out is taken. Every part is kept in the run's folder as soon as it
is done; the same call resumes there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.demo.networks import residual_network

Say = Callable[[str], None]
Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice of one demonstration; all epochs have the same number of steps."""

    dataset: str  # of TFDS, images with the splits `train` and `test`
    time: str  # on two cores
    labels: int  # labeled training images, equally many of each class
    held_out: int  # the last training images, on which the way to train is chosen
    shift: int  # pixels, where images are shifted at random
    teacher: tuple[tuple[int, ...], tuple[int, ...]]  # widths and blocks of `residual_network`
    student: tuple[tuple[int, ...], tuple[int, ...]]
    steps: int  # of an epoch
    batch_size: int
    teacher_epochs: int
    student_epochs: int
    quantize_epochs: int
    learning_rate: float  # of Adam at its start; it falls to zero along a cosine


RECIPES = {
    "digits": Recipe(
        dataset="digits",
        time="5 to 11 minutes",
        labels=60,
        held_out=200,
        shift=1,
        teacher=((32, 64), (1, 1)),
        student=((4, 8), (1, 1)),
        steps=20,
        batch_size=64,
        teacher_epochs=20,
        student_epochs=40,
        quantize_epochs=8,
        learning_rate=3e-3,
    ),
    "fashion_mnist": Recipe(
        dataset="fashion_mnist",
        time="about an hour",
        labels=1000,
        held_out=5000,
        shift=2,
        teacher=((32, 64, 128), (1, 1, 1)),
        student=((8, 12, 16), (1, 1, 1)),
        steps=200,
        batch_size=128,
        teacher_epochs=10,
        student_epochs=15,
        quantize_epochs=4,
        learning_rate=3e-3,
    ),
}

# Two ways to train each student. The better one on the held-out images of the first seed is taken.
WAYS: dict[str, tuple[Any, Any]] = {
    "student_alone": ("images as they are", "images shifted"),
    "distilled": (1.0, 4.0),  # the temperature
}


def load_data(dataset: str) -> tuple[Arrays, Arrays, list[str]]:
    """Return the training and test images, float32 in 0..1, with labels, and the class names."""
    splits, info = kd.datasets.load(
        dataset, split=["train", "test"], batch_size=-1, as_supervised=True, with_info=True
    )
    train, test = ((np.asarray(x, "float32") / 255.0, np.asarray(y)) for x, y in splits)
    return train, test, info.features["label"].names


def draw_labeled(part: Arrays, count: int, seed: int) -> Arrays:
    """Draw `count` images with their labels, equally many of each class."""
    x, y = part
    rng = np.random.default_rng(seed)
    classes = np.unique(y)
    of_class = [rng.permutation(np.flatnonzero(y == c))[: count // len(classes)] for c in classes]
    drawn = np.concatenate(of_class)
    return x[drawn], y[drawn]


class Run:
    """The models and files of one demonstration, made now or in an earlier call."""

    def __init__(self, recipe: Recipe, folder: pathlib.Path, verbose: int, say: Say) -> None:
        self.recipe, self.folder, self.verbose, self.say = recipe, folder, verbose, say
        (x, y), self.test, self.classes = load_data(recipe.dataset)
        cut = len(x) - recipe.held_out
        self.train, self.held_out = (x[:cut], y[:cut]), (x[cut:], y[cut:])
        self.histories: dict[str, dict[int, dict[str, Any]]] = {}

    def seed_folder(self, seed: int) -> pathlib.Path:
        """Return the folder of one seed."""
        return self.folder / f"seed{seed}"

    def _epoch(self, examples: tf.data.Dataset, seed: int) -> tf.data.Dataset:
        """Return shuffled batches of single examples: those of one epoch."""
        shuffled = examples.shuffle(len(self.train[0]), seed=seed).repeat()
        return shuffled.batch(self.recipe.batch_size).take(self.recipe.steps).prefetch(2)

    def labeled(self, seed: int, shifted: bool) -> tf.data.Dataset:
        """Return the few labeled images of a seed, as they are or shifted at random."""
        part = draw_labeled(self.train, self.recipe.labels, seed)
        examples = tf.data.Dataset.from_tensor_slices(part).cache()
        if shifted:
            around = [[self.recipe.shift] * 2, [self.recipe.shift] * 2, [0, 0]]

            def shift(image: Any, label: Any) -> tuple[Any, Any]:
                return tf.image.random_crop(tf.pad(image, around), image.shape, seed), label

            examples = examples.repeat(self.recipe.batch_size).map(shift)
        return self._epoch(examples, seed)

    def taught(self, teacher: keras.Model, seed: int) -> tf.data.Dataset:
        """Return all training images with what the teacher answers to them, without labels."""
        images = tf.data.Dataset.from_tensor_slices(self.train[0]).batch(250)
        kept = self.seed_folder(seed) / "teacher_outputs"
        answered = kd.teachers.cache(teacher, images, kept, verbose=False)
        return self._epoch(answered.unbatch(), seed)

    def network(self, role: str, seed: int) -> keras.Model:
        """Return the teacher or the student with the initial weights of a seed."""
        keras.utils.set_random_seed(seed)
        shape, classes = self.train[0].shape[1:], len(self.classes)
        widths, blocks = getattr(self.recipe, role)
        return residual_network(shape, classes, widths, blocks, role, momentum=0.9)

    def compile(self, model: keras.Model, epochs: int) -> keras.Model:
        """Compile a model or a distiller as every training here does."""
        steps = epochs * self.recipe.steps
        rate = keras.optimizers.schedules.CosineDecay(self.recipe.learning_rate, steps)
        model.compile(
            keras.optimizers.Adam(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def distiller(self, teacher: keras.Model, student: keras.Model, temperature: float) -> Any:
        """Return the distiller of a student: the teacher's answers count, labels do not."""
        loss = kd.losses.KLDivergence(temperature=temperature)
        return kd.Distiller(teacher, student, loss, student_loss_weight=0.0)

    def trained(
        self, name: str, seed: int, epochs: int, make: Callable[[], tuple[Any, keras.Model, Any]]
    ) -> keras.Model:
        """Return a model that an earlier call trained, or train it.

        `make` gives what is fitted, the model in it that is kept, and the data.
        """
        path = self.seed_folder(seed) / f"{name}.keras"
        history_path = path.with_suffix(".history.json")
        if not history_path.exists():  # it is written last
            fitted, model, data = make()
            self.compile(fitted, epochs)
            backup = kd.BackupAndRestore(path.with_suffix(".backup"))
            fitted.fit(
                data,
                validation_data=tf.data.Dataset.from_tensor_slices(self.held_out).batch(250),
                epochs=epochs,
                shuffle=False,  # the batches are shuffled already
                callbacks=[backup],
                verbose=self.verbose,
            )
            history = {**backup.history, "seconds": backup.seconds}
            model.save(path)
            write(history_path, history)
        self.histories.setdefault(name, {})[seed] = json.loads(history_path.read_text())
        return keras.models.load_model(path)

    def teacher(self, seed: int) -> keras.Model:
        """Return the teacher of a seed."""

        def make() -> tuple[Any, keras.Model, Any]:
            model = self.network("teacher", seed)
            return model, model, self.labeled(seed, shifted=True)

        return self.trained("teacher", seed, self.recipe.teacher_epochs, make)

    def student(self, key: str, teacher: keras.Model, seed: int, way: Any) -> keras.Model:
        """Return the student alone or taught, trained in one of the `WAYS`."""

        def make() -> tuple[Any, keras.Model, Any]:
            model = self.network("student", seed)
            if key == "student_alone":
                return model, model, self.labeled(seed, way == "images shifted")
            return self.distiller(teacher, model, way), model, self.taught(teacher, seed)

        name = f"{key}_{WAYS[key].index(way)}"
        return self.trained(name, seed, self.recipe.student_epochs, make)

    def choose(self, key: str, teacher: keras.Model, seed: int) -> tuple[Any, str]:
        """Return the better of two ways by the held-out images, and a sentence on it."""
        found = {}
        for way in WAYS[key]:
            self.say(f"Seed {seed}: {TITLES[key].lower()}, {_shown_way(way)}")
            self.student(key, teacher, seed, way)
            history = self.histories[f"{key}_{WAYS[key].index(way)}"][seed]
            found[way] = history["val_accuracy"][-1]
        best = max(found, key=lambda way: found[way])
        figures = " and ".join(f"{_shown_way(w)} {100 * v:.1f} %" for w, v in found.items())
        return best, (
            f"{TITLES[key]}: {_shown_way(best)}, chosen by the accuracy on the held-out images "
            f"with seed {seed} ({figures})."
        )

    def compressed(self, teacher: keras.Model, student: keras.Model, seed: int, way: Any) -> Any:
        """Return the taught student, quantized while the teacher keeps teaching."""
        keras.utils.set_random_seed(seed)
        distiller = self.compile(self.distiller(teacher, student, way), 1)
        return kd.compress(
            distiller,
            self.taught(teacher, seed),
            validation_data=self.held_out,
            stages=[kd.QuantizeAware(epochs=self.recipe.quantize_epochs)],
            path=self.seed_folder(seed) / "compressed",
            verbose=self.verbose,
        )

    def measured(self, key: str, model: Any, quantization: str, seed: int) -> dict[str, Any]:
        """Export a model and measure its file on the test images, or read what is kept."""
        path = self.seed_folder(seed) / f"{key}.tflite"
        kept = path.with_suffix(".measured.json")
        if not kept.exists():
            some = self.train[0][:256]
            kd.export_tflite(model, path, quantization, representative_data=some, verbose=False)
            result = kd.evaluate_tflite(path, self.test, model=model).to_dict()
            write(kept, {**result, "path": path.relative_to(self.folder).as_posix()})
        return dict(json.loads(kept.read_text()))


TITLES = {
    "teacher": "Teacher",
    "student_alone": "Student alone",
    "distilled": "Student taught",
    "int8": "Student taught, int8",
}


def run_demo(
    dataset: str,
    out: str | os.PathLike[str],
    *,
    seeds: int = 3,
    first_seed: int = 0,
    verbose: int = 0,
    say: Say = print,
) -> dict[str, Any]:
    """Run the demonstration, or what an earlier call left to do.

    Args:
        dataset: `"digits"` or `"fashion_mnist"`.
        out: The run's folder.
        seeds: Number of seeds. Everything is repeated with each. Defaults to `3`.
        first_seed: The first seed; the others follow it. Defaults to `0`.
        verbose: Verbosity of training, as in `keras.Model.fit`. Defaults to `0`.
        say: Receives each line of progress. Defaults to `print`.

    Returns:
        The result, as `kd.report.make_result` gives it.

    Raises:
        ValueError: If there is no recipe for the dataset, `seeds` is below 1, `first_seed` is
            negative, or the folder holds a run of another recipe.
        OSError: If the folder cannot be written to.
    """
    if dataset not in RECIPES:
        raise ValueError(
            f"`dataset` must be one of: {', '.join(RECIPES)}. Received: dataset={dataset!r}."
        )
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1. Received: seeds={seeds!r}.")
    if first_seed < 0:
        raise ValueError(f"`first_seed` must be at least 0. Received: first_seed={first_seed!r}.")
    recipe, folder = RECIPES[dataset], pathlib.Path(out)
    _check_recipe(folder, dataclasses.asdict(recipe))
    say(f"{dataset}, {seeds} seeds: {recipe.time} on 2 idle cores. Rerun the command to resume it.")
    run = Run(recipe, folder, verbose, say)
    models: dict[str, Any] = {}  # of the first seed
    files: dict[str, dict[int, dict[str, Any]]] = {key: {} for key in TITLES}
    ways: dict[str, Any] = {}
    notes: list[str] = []
    for seed in range(first_seed, first_seed + seeds):
        say(f"Seed {seed}: teacher, on {recipe.labels} labeled images")
        trained: dict[str, Any] = {"teacher": run.teacher(seed)}
        for key in WAYS:
            if key not in ways:
                ways[key], note = run.choose(key, trained["teacher"], seed)
                notes.append(note)
            else:
                say(f"Seed {seed}: {TITLES[key].lower()}, {_shown_way(ways[key])}")
            trained[key] = run.student(key, trained["teacher"], seed, ways[key])
        say(
            f"Seed {seed}: quantization-aware training with the teacher; files written and measured"
        )
        trained["int8"] = run.compressed(
            trained["teacher"], trained["distilled"], seed, ways["distilled"]
        )
        for key, model in trained.items():
            quantization = "int8" if key == "int8" else "float32"
            files[key][seed] = run.measured(key, model, quantization, seed)
        models = models or trained
    say("Latency of the first seed's files, side by side")
    _measure_latency(folder, files)
    result = _result(run, models, files, ways, notes)
    page, _ = kd.report.write_report(result, folder)
    card = kd.report.model_card(result, folder / "model_card.md", overwrite=True)
    say(f"\n{kd.report.format_table(result)}\n\n{_verdict(files)}")
    say(f"Page: {page}")
    say(f"Model card: {card}")
    return result


def _verdict(files: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Return what teaching was worth, seed by seed: each pair has its labels and weights alike."""
    gains = [
        100 * (files["distilled"][seed]["accuracy"] - alone["accuracy"])
        for seed, alone in files["student_alone"].items()
    ]
    mean = float(np.mean(gains))
    each = ", ".join(f"{gain:+.1f}" for gain in gains).replace("-", "−")
    text = f"Teaching was worth {mean:+.1f} points".replace("-", "−")
    if len(gains) == 1:
        return f"{text} with the one seed that was run: chance is not excluded."
    if min(gains) > 0 and mean > float(np.std(gains, ddof=1)):
        return f"{text} (by seed: {each})."
    return f"{text} (by seed: {each}), which is not clear of chance in this run."


def _measure_latency(folder: pathlib.Path, files: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Measure the latencies of the first seed's files side by side, so that ratios hold."""
    firsts = {key: next(iter(of_seed.values())) for key, of_seed in files.items()}
    paths = {key: folder / file["path"] for key, file in firsts.items()}
    latencies = kd.benchmark_tflite_files(list(paths.values()), rounds=200)
    for key, path in paths.items():
        measured = latencies[os.fspath(path)].to_dict()
        firsts[key].update({name: measured[name] for name in measured.keys() & firsts[key].keys()})


def _result(
    run: Run,
    models: dict[str, Any],
    files: dict[str, dict[int, dict[str, Any]]],
    ways: dict[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    recipe, images = run.recipe, len(run.train[0])
    descriptions = {
        "teacher": f"A large network, trained on {recipe.labels} labeled images, shifted.",
        "student_alone": f"A small network, trained on the same {recipe.labels} labeled images.",
        "distilled": "The small network from the same initial weights, trained on the teacher's "
        f"answers to all {images:,} training images, without their labels.",
        "int8": "The taught one after quantization-aware training with the teacher, in int8: the "
        "file to ship.",
    }
    rows = []
    for key, title in TITLES.items():
        name = f"{key}_{WAYS[key].index(ways[key])}" if key in WAYS else key
        curves = {title: run.histories[name]} if name in run.histories else None
        measured = {
            seed: {**file, "path": str(run.folder / file["path"])}
            for seed, file in files[key].items()
        }
        rows.append(
            kd.report.model_result(
                key, title, models[key], measured, description=descriptions[key], history=curves
            )
        )
    seeds, first = len(files["int8"]), min(files["int8"])
    return kd.report.make_result(
        f"{recipe.labels} labels, {images:,} images: what a teacher is worth on {recipe.dataset}",
        rows,
        dataset=recipe.dataset,
        part="test",
        classes=run.classes,
        command=f"keras-kd demo --dataset {recipe.dataset} --seeds {seeds}"
        + (f" --first-seed {first}" if first else ""),
        recipe=dataclasses.asdict(recipe),
        seconds={
            f"{name}, seed {seed}": history["seconds"]
            for name, of_seed in run.histories.items()
            for seed, history in of_seed.items()
        },
        shipped="int8",
        notes=[
            _verdict(files),
            f"Accuracy is that of the exported file on all {len(run.test[0]):,} test images. "
            "They decided nothing.",
            f"Each seed ({seeds}) has its own {recipe.labels} labels, teacher and initial weights; "
            "both students begin with the same weights and train for as many steps.",
            *notes,
            f"The last {recipe.held_out:,} training images are held out with their labels, for the "
            "curves and for one choice per student. A project with as few labels as the teacher "
            "has here would have fewer to hold out.",
            "Latencies were measured side by side, one image at a time, on one thread of this "
            "machine: read them as ratios. int8 kernels are made for Arm processors.",
        ],
    )


def _shown_way(way: Any) -> str:
    return way if isinstance(way, str) else f"temperature {way:g}"


def write(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file that is whole or not there."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


def _check_recipe(folder: pathlib.Path, recipe: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(path, recipe)
        return
    kept = json.loads(path.read_text())
    if {**kept, "time": None} != json.loads(json.dumps({**recipe, "time": None})):
        raise ValueError(
            f"The folder holds a run of another recipe (see {path.name} in it). Received: "
            f"out={str(folder)!r}. Give another folder with --out, or remove that one."
        )
