"""How small a file can be: 1/150 and 1/400 of the teacher's, on Fashion-MNIST.

    python benchmarks/small_files_fashion_mnist.py --models exports/fashion_mnist

Begins with the teacher and the distilled students which `benchmarks/fashion_mnist.py`
left in its folder, and trains what is missing of them. Every stage is taught by the teacher through
its kept outputs for the augmented images. A file counts by its zipped size against the teacher's
float32 file as it is; its accuracy is that of the int8 file on all test images, against that of the
teacher's file. What is done is kept in `--out`; the same command goes on from there. Prints a
Markdown table.
"""

import argparse
import pathlib
import statistics

import keras
from fashion_data import load_images
from fashion_models import RECIPES, Models, momentum_optimizer
from kept_results import once, spread, write_results

import keras_kd as kd

# By name: the sparsity of the pruning and its epochs; the README's own is 0.3.
CHAINS = {"demo": None, "0.82": (0.82, 14), "0.86": (0.86, 18)}
# The teacher's size divided by the file's, and how many points may be lost there.
TARGETS = {150: 1.0, 400: 2.0}


def stages(chain, steps):
    """Return the stages of a chain; `steps` are those of one epoch."""
    sparsity, epochs = CHAINS[chain]

    def optimizer(rate, epochs, decay=None):
        return momentum_optimizer(rate, decay, epochs * steps)

    prune = optimizer(0.1, epochs, 1e-3)
    return [
        kd.Prune(sparsity, scope="global", epochs=epochs, end=0.5, optimizer=prune),
        kd.Cluster(16, epochs=3, optimizer=optimizer(0.005, 3)),
        kd.QuantizeAware(epochs=5, optimizer=optimizer(0.01, 5)),
    ]


def compressed(models, teacher, chain, seed, folder):
    """Return the distilled student of a seed after the stages of a chain."""
    student, _ = models.distilled(teacher, seed)
    if chain == "demo":
        pruned, _ = models.pruned(teacher, student, seed)
        return models.quantized(teacher, pruned.model, seed)[0]
    keras.utils.set_random_seed(seed)
    distiller = models.distiller(teacher, student)
    distiller.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return kd.compress(
        distiller,
        models.training_data(seed, teacher),
        validation_data=models.validation,
        stages=stages(chain, models.steps_per_epoch),
        path=folder / "runs" / f"{chain}.seed{seed}",
        verbose=models.verbose,
    )


def measure(models, model, file, quantization):
    """Export a model and return what its file does."""
    kd.export_tflite(
        model, file, quantization, representative_data=models.calibration, verbose=False
    )
    result = kd.evaluate_tflite(file, models.test)
    return {
        "accuracy": result.accuracy,
        "bytes": result.bytes,
        "zipped_bytes": result.zipped_bytes,
        "sparsity": result.sparsity,
    }


def verdict(lost, ratio):
    """Return whether a file meets the hardest target whose size it has."""
    reached = max((target for target in TARGETS if ratio >= target), default=None)
    if reached is None:
        return ""
    over = lost - TARGETS[reached]
    return f"1/{reached} reached" if over <= 0 else f"1/{reached} missed by {over:.2f} points"


def table(teacher, results):
    """Return the Markdown table.

    Args:
        teacher: What was measured of the teacher's file.
        results: What was measured of the others, `{chain: {seed: result}}`.
    """
    lines = [
        "| stages | zeros, % | seeds | accuracy, % | lost, points | kB | zipped kB "
        "| teacher / zipped | targets |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| teacher, float32 | | | {100 * teacher['accuracy']:.2f} | "
        f"| {teacher['bytes'] / 1e3:.1f} | {teacher['zipped_bytes'] / 1e3:.1f} | | |",
    ]
    for chain, runs in results.items():
        values = [100 * run["accuracy"] for run in runs.values()]
        lost = [100 * teacher["accuracy"] - value for value in values]
        mean = {
            key: statistics.mean(run[key] for run in runs.values())
            for key in ("bytes", "zipped_bytes", "sparsity")
        }
        ratio = teacher["bytes"] / mean["zipped_bytes"]
        names = "Prune → QuantizeAware"
        if CHAINS[chain] is not None:
            names = " → ".join(type(stage).__name__ for stage in stages(chain, 1))
        lines.append(
            f"| {names} | {100 * mean['sparsity']:.0f} | {len(runs)} | {spread(values)} "
            f"| {spread(lost)} | {mean['bytes'] / 1e3:.1f} | {mean['zipped_bytes'] / 1e3:.1f} "
            f"| {ratio:.0f} | {verdict(statistics.mean(lost), ratio)} |"
        )
    return "\n".join(lines)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="exports/fashion_mnist", help="its folder")
    parser.add_argument("--dataset", choices=RECIPES, default="fashion_mnist")
    parser.add_argument("--out", help="folder of the runs [exports/small_files_<dataset>]")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... [1]")
    parser.add_argument(
        "--chains", nargs="+", choices=CHAINS, default=tuple(CHAINS), metavar="NAME", help="[all]"
    )
    parser.add_argument("--verbose", type=int, default=0, help="as in `Model.fit` [0]")
    return parser.parse_args(argv)


def main(argv=None):
    chosen = arguments(argv)
    folder = pathlib.Path(chosen.out or f"exports/small_files_{chosen.dataset}")
    recipe = RECIPES[chosen.dataset]
    data = load_images(recipe.dataset, recipe.validation_examples)
    models = Models(recipe, data, pathlib.Path(chosen.models), chosen.verbose)
    teacher, _ = models.teacher()
    files = folder / "files"
    of_teacher = once(
        folder / "results" / "teacher.json",
        lambda: measure(models, teacher, files / "teacher.tflite", "float32"),
    )
    results = {}
    for seed in range(chosen.seeds):
        for chain in chosen.chains:

            def compress(chain=chain, seed=seed):
                model = compressed(models, teacher, chain, seed, folder)
                return measure(models, model, files / f"{chain}.seed{seed}.tflite", "int8")

            path = folder / "results" / f"{chain}.seed{seed}.json"
            result = results.setdefault(chain, {})[seed] = once(path, compress)
            print(
                f"seed {seed}, {chain}: {result['accuracy']:.2%} in {result['zipped_bytes']:,} "
                "bytes zipped",
                flush=True,
            )
    measured = {
        "dataset": chosen.dataset,
        "test_examples": len(data.test[1]),
        "teacher": of_teacher,
        "results": results,
    }
    text = table(of_teacher, measured["results"])
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
