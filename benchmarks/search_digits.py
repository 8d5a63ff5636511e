"""What `kd.search` finds, against a random search without a teacher at the same budget.

    python benchmarks/search_digits.py [--seconds 180] [--seeds 3] [--out FOLDER]

Digits, one teacher per seed, the same students, stages and formats for both: 50 files, and for
`kd.search` 150 candidates, more than the time allows. Each search may spend the same seconds of
training and measuring. Both choose by the same 287 validation images; the figures are of the 510
test images, on which only the files of the fronts are measured. Prints a Markdown table with the
hypervolume of each front: the area under accuracy over the decadic logarithm of the bytes, up to
the size of the teacher's file. Rerun the command to resume it.

Times are best compared side by side: one process with `--way 0` and one with `--way 1`, each on a
core of its own (`taskset -c 0 ...`), then the command without it, for the table.
"""

import argparse
import math
import pathlib

import keras
import numpy as np
from kept_results import check_settings, once, spread, write_results
from keras import layers

import keras_kd as kd
from keras_kd.report.pareto import hypervolume
from keras_kd.system.files import atomic_path

WAYS = {
    "kd.search": {},
    "random search without a teacher": {
        "engine": "random",
        "teachings": {"labels alone": {"student_loss_weight": 1.0}},
    },
}
WIDTHS = (0.75, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.125)
EPOCHS = 27


def area(points, largest):
    """Return the area under accuracy (in 0..1) over log10(bytes), up to the bytes `largest`."""
    return hypervolume(
        [(math.log10(size), accuracy) for size, accuracy in points], (math.log10(largest), 0.0)
    )


def data():
    """Return training, validation and test arrays."""
    arrays = []
    for split in ("train", "test"):
        x, y = kd.datasets.load("digits", split=split, as_supervised=True, batch_size=-1)
        arrays.append((np.asarray(x, "float32") / 255.0, np.asarray(y)))
    (x, y), test = arrays
    return (x[:1000], y[:1000]), (x[1000:], y[1000:]), test


def teacher(path, train, seed):
    """Return the trained teacher of a seed."""
    if not path.exists():
        keras.utils.set_random_seed(seed)
        image = keras.Input((8, 8, 1))
        x = image
        for channels, strides in ((32, 1), (64, 2), (64, 1)):
            x = layers.Conv2D(channels, 3, strides, "same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.003), loss=loss)
        model.fit(*train, epochs=20, verbose=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            model.save(temporary)
    return keras.models.load_model(path)


def decaying_adam(steps):
    """Return the optimizer of a training of so many steps."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.003, steps))


def search(folder, seed, way, seconds):
    """Return the front of one search on the test images, and its hypervolume."""
    train, validation, test = data()
    model = teacher(folder / f"teacher_{seed}.keras", train, seed)
    found = kd.search(
        model,
        train,
        validation,
        test_data=test,
        widths=WIDTHS,
        depths=(1.0,),
        epochs=EPOCHS,
        optimizer=decaying_adam,
        budget=seconds,
        seed=seed,
        path=folder / f"{seed}_{list(WAYS).index(way)}",
        **WAYS[way],
    )
    front = [(file.bytes, file.test["accuracy"]) for file in found.front]
    largest = (folder / f"{seed}_0" / "teacher" / "teacher.tflite").stat().st_size
    return {
        "front": front,
        "hypervolume": area(front, largest),
        "files": len(found.tried),
        "best": max(accuracy for _, accuracy in front),
        "teacher_bytes": largest,
    }


def table(results):
    """Return the results as a Markdown table."""
    rows = ["| search | files tried | best accuracy, % | hypervolume |", "|---|---:|---:|---:|"]
    for way, of_seed in results.items():
        values = list(of_seed.values())
        rows.append(
            f"| {way} | {spread([value['files'] for value in values], 0)} | "
            f"{spread([100 * value['best'] for value in values])} | "
            f"{spread([value['hypervolume'] for value in values], 3)} |"
        )
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/search_digits"))
    parser.add_argument("--way", type=int, choices=range(len(WAYS)), help="one of both [all]")
    asked = parser.parse_args()
    check_settings(asked.out, {"seconds": asked.seconds})
    ways = list(WAYS) if asked.way is None else [list(WAYS)[asked.way]]
    results = {way: {} for way in ways}
    for seed in range(asked.seeds):
        for way in ways:
            kept = asked.out / f"{seed}_{list(WAYS).index(way)}.json"
            results[way][seed] = once(
                kept, lambda seed=seed, way=way: search(asked.out, seed, way, asked.seconds)
            )
    if ways != list(WAYS):
        return
    text = table(results)
    write_results(asked.out, text, {"seconds": asked.seconds, "results": results})
    print(text)


if __name__ == "__main__":
    main()
