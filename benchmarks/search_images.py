"""What `kd.search` finds on Fashion-MNIST or CIFAR-10, beside the students made by hand.

    python benchmarks/search_images.py fashion_mnist --budget 4h --workers 2
    python benchmarks/search_images.py cifar10 --budget 24h --workers 2

The students are of the family of the hand-made one, in several widths and two depths, in files no
larger than its own. All see the same augmented passes over the training images, with the optimizer
of the students of CIFAR-10. Files are chosen by the last 5,000 training images; the test images
are used once, for the files of the front. Without `--teacher` the teacher of
`benchmarks/fashion_mnist.py` is trained first; that of CIFAR-10 is the kept file of
`benchmarks/cifar10_teacher.py`. The budget is the time of all trials together: two workers, each on
a core of its own, spend 4 hours in 2. Prints a Markdown table. Rerun the command to resume it; a
larger budget continues it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cifar10_students
import cifar10_teacher
import keras
import tensorflow as tf
from fashion_data import evaluation_dataset, load_images, view_dataset
from fashion_models import RECIPES, Models
from kept_results import check_settings, percent, spread, write_results

import keras_kd as kd
from keras_kd.demo.networks import residual_network

KEPT = pathlib.Path(__file__).parents[1] / "exports" / "reference"
BATCH = 128


@dataclasses.dataclass
class Task:
    """What is searched.

    Attributes:
        teacher: The teacher.
        train: Labeled batches.
        validation: What files are chosen by.
        test: What the files of the front are measured on.
        student: Returns an untrained student of a width and a depth.
        widths: The widths.
        max_bytes: The largest file.
        epochs: Passes over the batches.
        trained: The stages' epochs in a whole training, and their learning rate.
        views: Passes that the teacher sees of batches that change. Defaults to `None`: the
            batches are the same in every pass.
    """

    teacher: Any
    train: tf.data.Dataset
    validation: Any
    test: Any
    student: Callable
    widths: tuple[int, ...]
    max_bytes: int
    epochs: int
    trained: dict[str, Any]
    views: int | None = None


def fashion_student(width, depth):
    """Return an untrained student; the hand-made one has the width 16 and the depth 2."""
    widths = [round(factor * width) for factor in (1.0, 1.5, 2.0)]
    return residual_network((28, 28, 1), 10, widths, (1, depth, 1), name="student")


def fashion_mnist(teacher, folder):
    """Two views of 55,000 images: 18 passes, as many as the hand-made student had."""
    recipe = dataclasses.replace(RECIPES["fashion_mnist"], views=2)
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = Models(recipe, data, folder, verbose=2)
    images, labels = data.train
    parts = [
        tf.data.Dataset.zip(
            view_dataset((images, labels), view, shift=recipe.shift, batch_size=BATCH),
            tf.data.Dataset.from_tensor_slices(labels).batch(BATCH),
        )
        for view in models.views
    ]
    return Task(
        models.teacher()[0] if teacher is None else keras.models.load_model(teacher),
        parts[0].concatenate(parts[1]),
        evaluation_dataset(data.validation),
        models.test,
        fashion_student,
        (8, 12, 16, 18, 20, 24),
        60_000,
        epochs=9,
        trained={"epochs": 3, "learning_rate": 5e-4},
    )


def cifar10(teacher, folder, views=8, held_out=5_000, examples=None):
    """Eight views of 45,000 images: 24 passes with stages, where the hand-made student had 20."""
    images, labels = cifar10_teacher.load("train")
    validation = images[-held_out:].astype("float32"), labels[-held_out:]
    train = images[:-held_out][:examples], labels[:-held_out][:examples]
    keras.utils.set_random_seed(0)
    data = cifar10_teacher.augmented(*train, cifar10_students.BATCH)
    epochs = 6
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(data))
    largest = cifar10_students.widths_of(cifar10_students.STUDENTS[0])
    return Task(
        cifar10_students.log_teacher(teacher or KEPT / "cifar10_teacher.tflite"),
        data,
        validation,
        cifar10_teacher.load("test", "float32"),
        lambda width, depth: cifar10_students.student_of(
            train[0], [width * each // largest[0] for each in largest], depth
        ),
        (16, 20, 24, 32),
        98_496,
        epochs=18,
        trained={"epochs": epochs, "learning_rate": rate},
        views=views,
    )


TASKS = {"fashion_mnist": fashion_mnist, "cifar10": cifar10}


def search(task, folder, budget, trials=None):
    """Return the result of the search."""
    return kd.search(
        task.teacher,
        task.train,
        task.validation,
        students=task.student,
        max_bytes=task.max_bytes,
        widths=task.widths,
        depths=(1, 2),
        test_data=task.test,
        stages={
            "no stage": [],
            "8 bits trained": [kd.QuantizeAware(**task.trained)],
            "4 bits trained": [kd.QuantizeAware(weight_bits=4, ranges="mse", **task.trained)],
        },
        formats=("int8",),
        epochs=task.epochs,
        views=task.views,
        optimizer=lambda steps: cifar10_teacher.decaying_muon(steps, cifar10_students.RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        budget=budget,
        trials=trials,
        path=folder,
    )


def hand_made(task):
    """Return title, bytes and accuracies by seed of the files made by hand."""
    if task == "cifar10":
        students = json.loads((KEPT / "cifar10_students.json").read_text())
        resnet8 = json.loads((KEPT / "quantize_resnet8.json").read_text())
        rows = cifar10_students.files_of(students, "taught")
        found = next(row for row in resnet8 if row["file"] == "int4, taught")
        return [
            (
                "by hand: 7 convolutions, 4 bits",
                rows[0]["bytes"],
                [row["test"] / 100 for row in rows],
            ),
            ("by hand: ResNet8, 4 bits", found["bytes"], [found["test"] / 100]),
        ]
    models = json.loads((KEPT / "report.json").read_text())["models"]
    return [
        (
            f"by hand: {model['title']}",
            model["file"]["bytes"],
            [seed["accuracy"] for seed in model["seeds"].values()],
        )
        for model in models
        if model["key"] in ("distilled_int8", "int8")
    ]


def table(front, others):
    """Return the Markdown table, by bytes.

    Args:
        front: Dictionaries with `"made"`, `"epochs"`, `"bytes"`, `"validation"` and `"test"`.
        others: Tuples of title, bytes and accuracies on the test images.
    """
    rows = []
    for row in front:
        shares = percent(row["validation"]), percent(row["test"])
        cells = [row["made"], str(row["epochs"]), f"{row['bytes']:,}", *shares]
        rows.append((row["bytes"], cells))
    for title, size, accuracies in others:
        mean = statistics.mean(accuracies)
        as_good = [row["bytes"] for row in front if row["test"] >= mean]
        smallest = min(as_good, default=size + 1)
        found = f"as good from {smallest:,} bytes on" if smallest <= size else "none as good"
        test = spread([100 * accuracy for accuracy in accuracies])
        rows.append((size, [f"**{title}** ({found})", "", f"{size:,}", "", test]))
    lines = [
        "| file | epochs | bytes | validation, % | test, % |",
        "|---|---:|---:|---:|---:|",
    ]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for _, cells in sorted(rows)])


def table_of(kept):
    """Return the Markdown table of a kept result."""
    return table(kept["front"], hand_made(kept["task"]))


def share(workers):
    """Run this command as the chief and the workers of one search, each on its part of the cores.

    Returns:
        The first exit code that is not zero, or zero.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    cores = sorted(os.sched_getaffinity(0))
    environment = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    parts = [cores[i::workers] or cores for i in range(workers)]
    running = []
    try:
        for name, part in [("chief", cores), *((f"worker{i}", p) for i, p in enumerate(parts, 1))]:
            os.sched_setaffinity(0, part)
            given = {**os.environ, **environment, "KERASTUNER_TUNER_ID": name}
            running.append(subprocess.Popen([sys.executable, *sys.argv], env=given))
        return next((code for process in running if (code := process.wait())), 0)
    finally:
        os.sched_setaffinity(0, cores)
        for process in running:
            process.terminate()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--budget", default="2h", help="time of all trials together [2h]")
    parser.add_argument("--trials", type=int, help="number of trials [no limit]")
    parser.add_argument("--workers", type=int, default=1, help="processes that share it [1]")
    parser.add_argument("--teacher", type=pathlib.Path, help="its file")
    parser.add_argument("--out", type=pathlib.Path, help="folder [exports/search_<task>]")
    chosen = parser.parse_args(argv)
    folder = chosen.out or pathlib.Path(f"exports/search_{chosen.task}")
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, {"task": chosen.task, "teacher": chosen.teacher})
    task = TASKS[chosen.task](chosen.teacher, folder)
    of_many = os.environ.get("KERASTUNER_TUNER_ID")
    if chosen.workers > 1 and of_many is None:
        del task  # whose teacher is trained now
        sys.exit(share(chosen.workers))
    found = search(task, folder / "search", chosen.budget, chosen.trials)
    if of_many not in (None, "chief"):
        return
    kept = {
        "task": chosen.task,
        "budget": chosen.budget,
        "workers": chosen.workers,
        "teacher": found.reference,
        "trials": len(found.tried),
        "seconds": sum(file.seconds for file in found.tried),
        "front": [
            {
                "made": str(file.candidate),
                "epochs": file.epochs,
                "bytes": file.bytes,
                "zipped_bytes": file.zipped_bytes,
                "validation": file.metric,
                "test": file.test["accuracy"],
            }
            for file in found.front
        ],
    }
    text = table_of(kept)
    write_results(folder, text, kept)
    print(text)


if __name__ == "__main__":
    main()
