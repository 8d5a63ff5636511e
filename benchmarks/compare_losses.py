"""Every loss on a part of a dataset: the student alone, KL, KL with other losses, no teacher.

    python benchmarks/compare_losses.py
    python benchmarks/compare_losses.py --dataset cifar10 --views 4 --epochs 4 --teacher-epochs 8 \
        --rates 0.02 0.05 0.1 0.2 0.4 --losses alone KLDivergence RKD

The teacher is trained on all images but the held-out ones, shifted and mirrored at random; the
students on the first 10,000, as they are or in `--views` shifted and mirrored copies, from the same
initial weights and in the same order for every loss of a seed. With several `--rates`, that of the
student alone which is best on the held-out images is taken for all. Each run is kept in `--out`;
rerun the command to resume. Prints a Markdown table, best first.

The loss is `0.5 * cross-entropy + 0.5 * (KL + weight * loss)`; other divergences of logits take the
place of KL. The weights are published ones where there are some, otherwise 1: RepDistiller's and
mdistiller's scripts for CIFAR-100, and the papers of `ChannelWise`, `PearsonFeatures` and
`MaskedGenerative`. None was tuned on this data, so that a loss may do better with a weight of its
own. Left out are losses for real values, boxes, attention, and with a mask of the foreground.
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
from fashion_data import augment, draw_views, evaluation_dataset, load_images, training_dataset
from fashion_models import RECIPES, fit_resumably, momentum_optimizer, train_or_load
from kept_results import check_settings, once, spread, write_results

import keras_kd as kd
from keras_kd.demo.networks import residual_network

WIDTHS = {"teacher": (16, 32, 64, 128), "student": (8, 12, 16, 24)}
BATCH_SIZE = 64
LEARNING_RATE = 0.05
WEIGHT_DECAY = 1e-3
TEMPERATURE = 4.0
STUDENT_LOSS_WEIGHT = 0.5

# By dataset: held-out images, the largest shift in pixels, whether images are mirrored.
DATASETS = {
    **{name: (r.validation_examples, r.shift, r.flip) for name, r in RECIPES.items()},
    "cifar10": (5_000, 4, True),
}

MAP = ("block4_1_out",)
MAPS = ("block3_1_out", "block4_1_out")
POOL = ("pool",)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table.

    Args:
        make: Makes the loss. `None` for KL alone.
        weight: The weight of the loss beside KL.
        layers: The layers of both models that the loss reads; the logits otherwise.
        beside_kl: Whether KL is there, too.
        hint: Further arguments of the hint.
        taught_by: `"teacher"`, or `"average"` or `"past"` for a copy of the student, or `"nobody"`.
        optimizer: Further arguments of `momentum_optimizer`.
        student_loss_weight: The weight of the labels, or a function of the epochs that returns it.
    """

    make: Callable | None = None
    weight: float = 1.0
    layers: tuple[str, ...] = ()
    beside_kl: bool = True
    hint: dict = dataclasses.field(default_factory=dict)
    taught_by: str = "teacher"
    optimizer: dict = dataclasses.field(default_factory=dict)
    student_loss_weight: float | Callable = STUDENT_LOSS_WEIGHT


def growing(epochs):
    """Return PS-KD's weight of the labels by epoch: the student's past counts more and more."""
    return lambda epoch: 1.0 - 0.8 * epoch / epochs


LOSSES = {
    "alone": None,
    "KLDivergence": Entry(),
    "SoftCrossEntropy": Entry(functools.partial(kd.losses.SoftCrossEntropy, TEMPERATURE)),
    "LogitsMSE": Entry(kd.losses.LogitsMSE),
    "ProbabilityMSE": Entry(kd.losses.ProbabilityMSE),
    "DKD": Entry(kd.losses.DKD),
    "DIST": Entry(kd.losses.DIST),
    "NKD": Entry(kd.losses.NKD),
    "StandardizedKL": Entry(kd.losses.StandardizedKL),
    "BinaryKLDivergence": Entry(kd.losses.BinaryKLDivergence),
    "FitNet": Entry(kd.losses.FitNet, 100.0, MAP),
    "AttentionTransfer": Entry(kd.losses.AttentionTransfer, 1000.0, MAP),
    "FSP": Entry(kd.losses.FSP, 50.0, MAPS),
    "NST": Entry(kd.losses.NST, 50.0, MAP),
    "VID": Entry(kd.losses.VID, 1.0, MAP),
    "ICKD": Entry(kd.losses.ICKD, 1.0, MAP),
    "ReviewKD": Entry(kd.losses.ReviewKD, 1.0, MAPS),
    "CRD": Entry(functools.partial(kd.losses.CRD, negatives=512), 0.8, POOL),
    "CosineRelation": Entry(kd.losses.CosineRelation, 1.0, POOL),
    "SimilarityPreserving": Entry(kd.losses.SimilarityPreserving, 3000.0, POOL),
    "RKDDistance": Entry(kd.losses.RKDDistance, 25.0, POOL),
    "RKDAngle": Entry(kd.losses.RKDAngle, 50.0, POOL),
    "RKD": Entry(kd.losses.RKD, 1.0, POOL),
    "PKT": Entry(kd.losses.PKT, 30000.0, POOL),
    "CorrelationCongruence": Entry(kd.losses.CorrelationCongruence, 1.0, POOL),
    "ReverseKL": Entry(functools.partial(kd.losses.ReverseKL, TEMPERATURE), beside_kl=False),
    "JensenShannon": Entry(
        functools.partial(kd.losses.JensenShannon, temperature=TEMPERATURE), beside_kl=False
    ),
    "SkewKL": Entry(functools.partial(kd.losses.SkewKL, temperature=TEMPERATURE), beside_kl=False),
    "AlphaBeta": Entry(
        functools.partial(kd.losses.AlphaBeta, temperature=TEMPERATURE), beside_kl=False
    ),
    "MultiLevel": Entry(functools.partial(kd.losses.MultiLevel, standardize=True), beside_kl=False),
    "SRRL": Entry(kd.losses.SRRL, 1.0, POOL),
    "ChannelWise": Entry(kd.losses.ChannelWise, 50.0, MAP),
    "PearsonFeatures": Entry(kd.losses.PearsonFeatures, 6.0, MAP),
    "MaskedGenerative": Entry(
        functools.partial(kd.losses.MaskedGenerative, mask_ratio=0.15, scale=7e-5), 1.0, MAP
    ),
    "VkD": Entry(
        kd.losses.FitNet, 1.0, POOL, hint={"projection": "orthogonal", "normalize": "standardize"}
    ),
    "DOT": Entry(optimizer={"make": functools.partial(kd.DOT, momentum=0.9, delta=0.075)}),
    "SelfTeacher": Entry(taught_by="average"),
    "PS-KD": Entry(
        functools.partial(kd.losses.SoftCrossEntropy, 1.0),
        beside_kl=False,
        taught_by="past",
        student_loss_weight=growing,
    ),
    "ClassConsistency": Entry(kd.losses.ClassConsistency, beside_kl=False, taught_by="nobody"),
}
TITLES = {
    "alone": "student alone",
    "KLDivergence": "KL",
    "MultiLevel": "MultiLevel, standardized",
    "VkD": "KL + FitNet with VkD's projection",
    "DOT": "KL, with the optimizer DOT",
}


def network(role, data):
    return residual_network(
        data.train[0].shape[1:], len(data.class_names), WIDTHS[role], (1, 1, 1, 1), name=role
    )


def compiled(model, epochs, examples, learning_rate=LEARNING_RATE, **optimizer):
    steps = epochs * -(-examples // BATCH_SIZE)
    model.compile(
        momentum_optimizer(learning_rate, WEIGHT_DECAY, steps, **optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train_teacher(data, examples, epochs, folder):
    """Return the teacher of all runs, trained once and resumably."""

    def train():
        keras.utils.set_random_seed(0)
        part = tuple(array[:examples] for array in data.train)
        model = compiled(network("teacher", data), epochs, len(part[0]))
        _, shift, flip = DATASETS[data.name]
        history = fit_resumably(
            model,
            training_dataset(part, batch_size=BATCH_SIZE, seed=0, shift=shift, flip=flip),
            evaluation_dataset(data.validation),
            epochs=epochs,
            folder=folder,
            name="teacher",
            verbose=0,
        )
        return model, history

    return train_or_load(folder / "teacher.keras", train)[0]


def images_for_students(data, examples, views):
    """Return images and labels: as they are, or each image in several views."""
    images, labels = (array[:examples] for array in data.train)
    if views:
        _, shift, flip = DATASETS[data.name]
        drawn = draw_views(len(images), views, shift=shift, flip=flip)
        images = np.concatenate([np.asarray(augment(images, view, shift)) for view in drawn])
        labels = np.tile(labels, views)
    return images.astype("float32") / 255.0, labels


class Signals:
    """What the teacher says of the training images, computed once for each layer that is read."""

    def __init__(self, teacher, images):
        self.teacher, self.images = teacher, images
        self.known = {}

    def read(self, layers):
        """Return the teacher's logits, and its features at `layers` by their names."""
        missing = [layer for layer in ("logits", *layers) if layer not in self.known]
        if missing:
            outputs = {name: self.teacher.get_layer(name).output for name in missing}
            reader = keras.Model(self.teacher.input, outputs)
            self.known.update(reader.predict(self.images, batch_size=250, verbose=0))
        return self.known["logits"], {layer: self.known[layer] for layer in layers}


def distillation_losses(name, teacher, examples):
    """Return the losses of an entry, and their weights."""
    entry = LOSSES[name]
    losses, weights = [], []
    if entry.beside_kl:
        losses, weights = [kd.losses.KLDivergence(TEMPERATURE)], [1.0]
    if entry.make is not None:
        own = {
            "CRD": {"examples": examples},
            "SRRL": {"classifier": teacher.get_layer("logits")},
        }
        loss = entry.make(**own.get(name, {}))
        if entry.layers:
            layers = list(entry.layers) if loss.several_layers else entry.layers[0]
            loss = kd.Hint(layers, layers, loss=loss, **entry.hint)
        losses.append(loss)
        weights.append(entry.weight)
    return losses, weights


def no_teacher(images):
    return keras.ops.zeros((keras.ops.shape(images)[0], 10))


def train_student(name, seed, data, part, teacher, signals, epochs, learning_rate):
    """Return a trained student and the seconds of its training."""
    keras.utils.set_random_seed(seed)
    student = network("student", data)
    images, labels = part
    start = time.perf_counter()
    entry = LOSSES[name]
    if entry is None:
        compiled(student, epochs, len(images), learning_rate)
        student.fit(images, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    else:
        losses, weights = distillation_losses(name, teacher, len(images))
        weight, callbacks, inputs = entry.student_loss_weight, [], images
        if callable(weight):
            weight = weight(epochs)
        if entry.taught_by == "teacher":
            logits, features = signals.read(entry.layers)
            inputs = kd.teachers.TaughtInputs(images, logits, features)
        elif entry.taught_by == "nobody":
            teacher = no_teacher
        else:
            momentum = {"average": 0.999, "past": None}[entry.taught_by]
            callbacks = [kd.SelfTeacher(student, momentum)]
            teacher = callbacks[0].teacher
        distiller = kd.Distiller(teacher, student, losses, weights, weight)
        compiled(distiller, epochs, len(images), learning_rate, **entry.optimizer)
        start = time.perf_counter()
        distiller.fit(
            inputs,
            {"index": np.arange(len(images)), "label": labels} if name == "CRD" else labels,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=callbacks,
            verbose=0,
        )
    return student, round(time.perf_counter() - start, 1)


def accuracy(model, part):
    logits = model.predict(evaluation_dataset(part), verbose=0)
    return float(np.mean(np.argmax(logits, -1) == part[1]))


def table(results, teacher_accuracy):
    """Return the Markdown table of `results`, a dictionary `{loss: {seed: result}}`, best first."""

    def points(values):
        return spread([100 * value for value in values])

    kl = results.get("KLDivergence", {})
    rows = []
    for name, runs in results.items():
        values = [run["accuracy"] for run in runs.values()]
        # Seed by seed: the runs of a seed share initial weights and order.
        shared = [seed for seed in runs if seed in kl]
        gains = [runs[seed]["accuracy"] - kl[seed]["accuracy"] for seed in shared]
        entry = LOSSES[name] or Entry()
        beside = "KL + " if entry.beside_kl and entry.taught_by == "teacher" else ""
        title = TITLES.get(name, f"{beside}{name}")
        if entry.taught_by != "teacher":
            title += " (no teacher)"
        rows.append(
            (
                statistics.mean(values),
                f"| {title} | {', '.join(entry.layers) or 'logits' if entry.make else ''} "
                f"| {f'{entry.weight:g}' if entry.make else ''} | {points(values)} "
                f"| {f'{100 * statistics.mean(gains):+.2f}' if gains else ''} | {len(values)} |",
            )
        )
    rows.sort(key=lambda row: -row[0])
    return "\n".join(
        [
            "| trained with | at | weight | accuracy, % | against KL | seeds |",
            "|---|---|---|---|---|---|",
            f"| teacher | | | {100 * teacher_accuracy:.2f} | | 1 |",
            *(line for _, line in rows),
        ]
    )


def report(measured):
    """Return the table under a line that says of what it is."""
    settings = measured["settings"]
    views = f" in {settings['views']} views" if settings.get("views") else ""
    rate = ""
    if len(settings.get("rates", ())) > 1:
        rates = ", ".join(f"{rate:g}" for rate in settings["rates"])
        rate = (
            f" The learning rate {measured['learning_rate']:g}, of {rates}, is the best for the "
            "student alone on held-out images."
        )
    return (
        f"{settings['dataset']}: students trained on {settings['examples']} images{views} for "
        f"{settings['epochs']} epochs; accuracy on all {measured['test_examples']} test images, "
        f"mean ± sample standard deviation.{rate}\n\n"
        + table(measured["results"], measured["teacher_accuracy"])
    )


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=DATASETS, default="fashion_mnist")
    parser.add_argument("--out", help="folder of the runs [exports/losses_<dataset>]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... [3]")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="LOSS")
    parser.add_argument("--examples", type=int, default=10_000, help="images for students [10000]")
    parser.add_argument("--views", type=int, default=0, help="copies of each image [as it is]")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of students [8]")
    parser.add_argument("--rates", type=float, nargs="+", default=[LEARNING_RATE], metavar="RATE")
    parser.add_argument("--teacher-examples", type=int, default=55_000, help="[55000]")
    parser.add_argument("--teacher-epochs", type=int, default=4, help="epochs of the teacher [4]")
    chosen = parser.parse_args(argv)
    for name in ("seeds", "examples", "epochs", "teacher_examples", "teacher_epochs"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return chosen


def main(argv=None):
    chosen = arguments(argv)
    folder = pathlib.Path(chosen.out or f"exports/losses_{chosen.dataset}")
    data = load_images(chosen.dataset, DATASETS[chosen.dataset][0])
    part = images_for_students(data, chosen.examples, chosen.views)
    taught = min(chosen.teacher_examples, len(data.train[0]))
    settings = {
        "dataset": chosen.dataset,
        "examples": min(chosen.examples, len(data.train[0])),
        "views": chosen.views,
        "epochs": chosen.epochs,
        "rates": chosen.rates,
        "teacher_examples": taught,
        "teacher_epochs": chosen.teacher_epochs,
        "batch_size": BATCH_SIZE,
        "weight_decay": WEIGHT_DECAY,
        "student_loss_weight": STUDENT_LOSS_WEIGHT,
        "temperature": TEMPERATURE,
        "widths": {role: list(widths) for role, widths in WIDTHS.items()},
        "weights": {name: entry.weight for name, entry in LOSSES.items() if entry and entry.make},
    }
    check_settings(folder, settings, {"weights": settings["weights"]})
    print(f"Teacher: {chosen.teacher_epochs} epochs on {taught} images", flush=True)
    teacher = train_teacher(data, taught, chosen.teacher_epochs, folder)
    signals = Signals(teacher, part[0])

    def trained(name, seed, rate):
        keras.utils.clear_session(free_memory=False)
        return train_student(name, seed, data, part, teacher, signals, chosen.epochs, rate)

    def measured_run(name, seed):
        student, seconds = trained(name, seed, learning_rate)
        found = accuracy(student, data.test)
        print(f"seed {seed}, {name}: {found:.2%}", flush=True)
        return {"accuracy": found, "seconds": seconds}

    def of_rate(rate):
        found = accuracy(trained("alone", 0, rate)[0], data.validation)
        print(f"rate {rate:g}, student alone: {found:.2%} held out", flush=True)
        return found

    learning_rate = chosen.rates[0]
    if len(chosen.rates) > 1:
        held_out = {
            rate: once(folder / f"rate_{rate:g}.json", lambda rate=rate: of_rate(rate))
            for rate in chosen.rates
        }
        learning_rate = max(held_out, key=held_out.get)
    results = {}
    # Seed by seed, so that a part of the runs is a whole table of fewer seeds.
    for seed in range(chosen.seeds):
        for name in chosen.losses:
            results.setdefault(name, {})[seed] = once(
                folder / f"{name}.seed{seed}.json",
                lambda name=name, seed=seed: measured_run(name, seed),
            )
    measured = {
        "settings": settings,
        "learning_rate": learning_rate,
        "test_examples": len(data.test[1]),
        "teacher_accuracy": accuracy(teacher, data.test),
        "results": results,
    }
    text = report(measured)
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
