"""What `kd.search` finds on Fashion-MNIST, beside the students made by hand.

    python benchmarks/search_fashion_mnist.py --budget 2h [--teacher teacher.keras] [--out FOLDER]

The teacher is that of `benchmarks/fashion_mnist.py`, trained here for `--teacher-epochs` unless one
is given. The students are of the family of the hand-made one, in four widths and two depths; all
see the same two augmented views of 55,000 training images, with the optimizer that the hand-made
student had. Files are chosen by the other 5,000; the test images are used once, for the files of
the front. Prints a Markdown table. Rerun the command to resume it; a larger budget continues it.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics

import keras
import tensorflow as tf
from fashion_data import evaluation_dataset, load_images, view_dataset
from fashion_models import RECIPES, Models, momentum_optimizer
from kept_results import check_settings, percent, spread, write_results

import keras_kd as kd
from keras_kd.demo.networks import residual_network

REFERENCE = pathlib.Path(__file__).parents[1] / "exports" / "reference" / "report.json"
HAND_MADE = ("distilled_int8", "int8")
VIEWS = 2
EPOCHS = 9  # passes over both views: as many as the hand-made student had over one


def student(width, depth):
    """Return an untrained student; the hand-made one has the width 16 and the depth 2."""
    widths = [round(factor * width) for factor in (1.0, 1.5, 2.0)]
    return residual_network((28, 28, 1), 10, widths, (1, depth, 1), name="student")


def training_data(models):
    """Return labelled batches of the first views of all training images, the same in every pass."""
    images, labels = models.data.train
    parts = [
        tf.data.Dataset.zip(
            view_dataset((images, labels), view, shift=models.recipe.shift, batch_size=128),
            tf.data.Dataset.from_tensor_slices(labels).batch(128),
        )
        for view in models.views[:VIEWS]
    ]
    return parts[0].concatenate(parts[1]), VIEWS * -(-len(labels) // 128)


def search(models, teacher, folder, budget, trials=None):
    """Return the result of the search."""
    train, steps = training_data(models)
    trained = {"epochs": EPOCHS // 3, "learning_rate": 5e-4}
    return kd.search(
        teacher,
        train,
        evaluation_dataset(models.data.validation),
        students=student,
        widths=(8, 12, 16, 24),
        depths=(1, 2),
        test_data=models.test,
        stages={
            "no stage": [],
            "8 bits trained": [kd.QuantizeAware(**trained)],
            "4 bits trained": [kd.QuantizeAware(weight_bits=4, ranges="mse", **trained)],
        },
        formats=("int8",),
        epochs=EPOCHS,
        optimizer=momentum_optimizer(0.1, 1e-3, EPOCHS * steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        budget=budget,
        trials=trials,
        path=folder,
    )


def hand_made():
    """Return title, bytes and accuracies by seed of the hand-made files of the README."""
    kept = json.loads(REFERENCE.read_text())["models"]
    return [
        (
            f"by hand: {model['title']}",
            model["file"]["bytes"],
            [seed["accuracy"] for seed in model["seeds"].values()],
        )
        for model in kept
        if model["key"] in HAND_MADE
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="2h")
    parser.add_argument("--trials", type=int, help="number of trials [no limit]")
    parser.add_argument("--teacher", type=pathlib.Path, help="a .keras file [trained]")
    parser.add_argument("--teacher-epochs", type=int, default=6)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("exports/search_fashion_mnist")
    )
    chosen = parser.parse_args(argv)
    of_teacher = {"teacher": chosen.teacher, "teacher_epochs": chosen.teacher_epochs}
    check_settings(chosen.out, of_teacher)
    recipe = dataclasses.replace(
        RECIPES["fashion_mnist"], teacher_epochs=chosen.teacher_epochs, views=VIEWS
    )
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = Models(recipe, data, chosen.out, verbose=2)
    if chosen.teacher is None:
        teacher, _ = models.teacher()
    else:
        teacher = keras.models.load_model(chosen.teacher)
    found = search(models, teacher, chosen.out / "search", chosen.budget, chosen.trials)
    front = [
        {
            "made": str(file.candidate),
            "epochs": file.epochs,
            "bytes": file.bytes,
            "validation": file.metric,
            "test": file.test["accuracy"],
        }
        for file in found.front
    ]
    kept = {
        "budget": chosen.budget,
        "teacher": {"validation": found.reference, "epochs": chosen.teacher_epochs},
        "trials": len(found.tried),
        "seconds": sum(file.seconds for file in found.tried),
        "front": front,
    }
    text = table(front, hand_made())
    write_results(chosen.out, text, kept)
    print(text)


if __name__ == "__main__":
    main()
