"""How small a file can be: 1/150, 1/200 and 1/400 of the teacher's, on Fashion-MNIST.

    python benchmarks/small_files_fashion_mnist.py --models exports/fashion_mnist

The teacher is that of `benchmarks/fashion_mnist.py`, from its folder, or trained there. It answers
once, for `--views` augmented views of 55,000 training images. Students are residual networks such
as `16-24-32/1-2-1`, the channels of the three groups and their blocks. They are trained with Muon,
as those of CIFAR-10, then with weights of 4 bits by `kd.QuantizeAware`, while the teacher teaches.
Settings are chosen on the 5,000 training images held out; every file is measured on all test
images, against the teacher's float32 file. What is done is kept in `--out`; the same command
resumes. Prints a Markdown table.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import statistics
import time

import keras
from cifar10_teacher import LOSS, decaying_muon
from fashion_data import load_images
from fashion_models import RECIPES, Models, fit_resumably
from kept_results import check_settings, once, percent, spread, write_results

import keras_kd as kd
from keras_kd.demo.networks import residual_network
from keras_kd.system.arguments import exceeds

STUDENTS = ("17-26-34/1-2-1", "12-18-24/1-2-1")
# The teacher's bytes by a file's, how the file's are counted, and the points that may be lost.
GOALS = ((150, "bytes", 0.5), (200, "bytes", 1.0), (400, "zipped_bytes", 1.5))
# Arguments on which no result depends.
FREE = ("models", "out", "students", "seeds", "verbose")


def student_of(network, image_shape=(28, 28, 1), classes=10):
    """Return the untrained student of a name such as `16-24-32/1-2-1`."""
    widths, blocks = ([int(n) for n in part.split("-")] for part in network.split("/"))
    return residual_network(image_shape, classes, widths, blocks, name="student")


def trained(models, teacher, network, seed, chosen, folder):
    """Return the student of a seed, trained by the teacher, then for weights of 4 bits."""
    data = models.training_data(seed, teacher)
    keras.utils.set_random_seed(seed)
    images, names = models.data.train[0], models.data.class_names
    distiller = models.distiller(teacher, student_of(network, images.shape[1:], len(names)))
    optimizer = decaying_muon(chosen.epochs * models.steps_per_epoch, chosen.rate)
    distiller.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    fit_resumably(
        distiller,
        data,
        models.validation,
        epochs=chosen.epochs,
        folder=folder,
        name="student",
        verbose=chosen.verbose,
    )
    keras.utils.set_random_seed(seed)
    epochs = chosen.quantize_epochs
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * models.steps_per_epoch)
    stage = kd.QuantizeAware(epochs=epochs, weight_bits=4, ranges="mse", learning_rate=rate)
    path = folder / "4_bits"
    return kd.compress(distiller, data, stages=[stage], path=path, verbose=chosen.verbose)


def measured(models, model, file, quantization):
    """Export a model and return what its file does."""
    kd.export_tflite(model, file, quantization, verbose=False)
    found = {"bytes": file.stat().st_size}
    for name, data in (("validation", models.validation), ("test", models.test)):
        result = kd.evaluate_tflite(file, data, runs=1, verbose=False)
        found |= {name: result.accuracy, "zipped_bytes": result.zipped_bytes}
    return found


def goals_met(teacher, rows):
    """Return the goals that the files of one student meet, as text."""
    lost = 100 * (teacher["test"] - statistics.mean(row["test"] for row in rows))
    met = [
        f"1/{ratio}{' zipped' * (size != 'bytes')}"
        for ratio, size, points in GOALS
        if teacher["bytes"] >= ratio * max(row[size] for row in rows) and not exceeds(lost, points)
    ]
    return ", ".join(met) or "none"


def table_of(kept):
    """Return the Markdown table."""
    teacher = kept["teacher"]
    lines = [
        "| channels/blocks | seeds | bytes | zipped | teacher / file | teacher / zipped "
        "| validation, % | test, % | lost, points | goals met |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        f"| teacher, float32 | | {teacher['bytes']:,} | {teacher['zipped_bytes']:,} | | "
        f"| {percent(teacher['validation'])} | {percent(teacher['test'])} | | |",
    ]
    for network, runs in kept["students"].items():
        rows = list(runs.values())
        sizes = [max(row[key] for row in rows) for key in ("bytes", "zipped_bytes")]
        cells = [network, str(len(rows)), *(f"{size:,}" for size in sizes)]
        cells += [f"{teacher['bytes'] / size:.0f}" for size in sizes]
        cells += [spread([100 * row[part] for row in rows]) for part in ("validation", "test")]
        cells.append(spread([100 * (teacher["test"] - row["test"]) for row in rows]))
        lines.append(f"| {' | '.join([*cells, goals_met(teacher, rows)])} |")
    return "\n".join(lines)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, help="folder of the teacher")
    parser.add_argument("--dataset", choices=RECIPES, default="fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, help="folder [exports/small_files_<dataset>]")
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="CHANNELS/BLOCKS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=30, help="passes [30]")
    parser.add_argument("--quantize-epochs", type=int, default=8, help="of 4 bits [8]")
    parser.add_argument("--rate", type=float, default=0.04, help="learning rate of Muon [0.04]")
    parser.add_argument("--verbose", type=int, default=2, help="as in `Model.fit` [2]")
    return parser.parse_args(argv)


def main(argv=None):
    chosen = arguments(argv)
    recipe = dataclasses.replace(RECIPES[chosen.dataset], views=chosen.views)
    chosen.out = chosen.out or pathlib.Path(f"exports/small_files_{chosen.dataset}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    check_settings(chosen.out, {k: v for k, v in vars(chosen).items() if k not in FREE})
    data = load_images(recipe.dataset, recipe.validation_examples)
    of_teacher = chosen.models or pathlib.Path(f"exports/{chosen.dataset}")
    teacher, _ = Models(recipe, data, of_teacher, chosen.verbose).teacher()
    models = Models(recipe, data, chosen.out, chosen.verbose)
    file = chosen.out / "teacher.tflite"
    kept = {"dataset": chosen.dataset, "test_examples": len(data.test[1]), "students": {}}
    kept["teacher"] = once(
        chosen.out / "teacher.json", lambda: measured(models, teacher, file, "float32")
    )
    for network, seed in itertools.product(chosen.students, chosen.seeds):
        name = f"{network.replace('/', '_')}.seed{seed}"

        def files(network=network, seed=seed, name=name):
            start = time.time()
            model = trained(models, teacher, network, seed, chosen, chosen.out / name)
            found = measured(models, model, chosen.out / f"{name}.tflite", "int4")
            return {**found, "seconds": round(time.time() - start)}

        found = once(chosen.out / f"{name}.json", files)
        kept["students"].setdefault(network, {})[str(seed)] = found
        print(json.dumps({name: found}), flush=True)
    text = table_of(kept)
    write_results(chosen.out, text, kept)
    print("\n" + text)


if __name__ == "__main__":
    main()
