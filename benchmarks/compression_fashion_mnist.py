"""What teaching is worth inside the stages, on a part of Fashion-MNIST.

    python benchmarks/compression_fashion_mnist.py

One teacher; one distilled student per seed. From this same student every chain of stages begins
three times: taught by the teacher, with labels only (`student_loss_weight=1.0`), and by hand with
TF-MOT on `tf_keras`, with labels only, as far as TF-MOT has the stages; with the same data, order,
epochs and learning rates. A stage that begins several chains is run once; from Cluster on they are
one run, because QuantizeAware keeps what was shared in the same run. The accuracy is that of the
exported file: int8 where the chain ends with QuantizeAware (Q), else float32. What is done is kept
in `--out`; rerun the command to resume. Prints a Markdown table.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import keras
import numpy as np
from compare_losses import (
    BATCH_SIZE,
    LEARNING_RATE,
    STUDENT_LOSS_WEIGHT,
    TEMPERATURE,
    WEIGHT_DECAY,
    WIDTHS,
    compiled,
    network,
    train_teacher,
)
from fashion_data import evaluation_dataset, load_images
from fashion_models import RECIPES, train_or_load
from kept_results import check_settings, spread, write_results

import keras_kd as kd
from keras_kd.system.arguments import constructor_defaults
from keras_kd.system.files import atomic_path

SPARSITY = 0.6
CLUSTERS = 16
RATES = {"S": 1e-3, "L": 1e-3, "P": 1e-3, "C": 1e-4, "Q": 1e-4}
KINDS = {"S": "Shrink", "L": "LowRank", "P": "Prune", "C": "Cluster", "Q": "QuantizeAware"}
CHAINS = tuple(
    chain
    for chain in ("P", "C", "Q", "PQ", "CQ", "PCQ", "L", "S", "SPQ")
    if all(hasattr(kd, KINDS[kind]) for kind in chain)
)
TEACHING = ("taught", "labels")


def stage(kind, epochs):
    """Return a stage of keras_kd."""
    arguments = {"epochs": epochs, "learning_rate": RATES[kind]}
    return {
        "S": lambda: kd.Shrink(0.25, **arguments),
        "L": lambda: kd.LowRank(energy=0.9, **arguments),
        "P": lambda: kd.Prune(SPARSITY, **arguments),
        "C": lambda: kd.Cluster(CLUSTERS, **arguments),
        "Q": lambda: kd.QuantizeAware(**arguments),
    }[kind]()


class Benchmark:
    """The runs of one folder.

    Args:
        chosen: The arguments of the command.
        folder: Where everything is kept.
        data: The images.
        teacher: The teacher.
    """

    def __init__(self, chosen, folder, data, teacher):
        self.chosen, self.folder, self.data, self.teacher = chosen, folder, data, teacher
        images, labels = (array[: chosen.examples] for array in data.train)
        self.part = (images.astype("float32") / 255.0, labels)
        self.test = evaluation_dataset(data.test)

    @functools.cached_property
    def logits(self):
        """What the teacher says of the training images."""
        return self.teacher.predict(self.part[0], batch_size=250, verbose=0)

    def training_data(self, seed, taught):
        """Return the batches, in an order that the seed fixes; taught ones bring the logits."""
        import tensorflow as tf

        images, labels = self.part
        dataset = tf.data.Dataset.from_tensor_slices((images, self.logits, labels))
        dataset = dataset.shuffle(len(labels), seed=seed).batch(BATCH_SIZE)
        if not taught:
            return dataset.map(lambda image, _, label: (image, label))
        return dataset.map(
            lambda image, logits, label: (kd.teachers.TaughtInputs(image, logits), label)
        )

    def distiller(self, student, taught):
        """Return the distiller of all stages, not compiled."""
        return kd.Distiller(
            self.teacher,
            student,
            kd.losses.KLDivergence(TEMPERATURE),
            student_loss_weight=STUDENT_LOSS_WEIGHT if taught else 1.0,
        )

    def student(self, seed):
        """Return the distilled student of a seed."""

        def train():
            keras.utils.set_random_seed(seed)
            model = network("student", self.data)
            distiller = self.distiller(model, taught=True)
            epochs = self.chosen.student_epochs
            compiled(distiller, epochs, len(self.part[1]))
            history = distiller.fit(self.training_data(seed, True), epochs=epochs, verbose=0)
            return model, history.history

        return train_or_load(self.folder / f"student.seed{seed}.keras", train)[0]

    def compressed(self, seed, chain, teaching):
        """Return the student after a chain of stages, as `kd.compress` gives it."""
        before = chain[: chain.index("C")] if "C" in chain else chain[:-1]
        student = self.compressed(seed, before, teaching).model if before else self.student(seed)
        keras.utils.set_random_seed(seed)
        taught = teaching == "taught"
        distiller = self.distiller(student, taught)
        distiller.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
        )
        return kd.compress(
            distiller,
            self.training_data(seed, taught),
            stages=[stage(kind, self.chosen.epochs) for kind in chain[len(before) :]],
            path=self.folder / "runs" / f"{chain}.{teaching}.seed{seed}",
            verbose=0,
        )

    def by_hand(self, seed, chain):
        """Return the student after a chain of TF-MOT's own stages."""
        from by_hand import cluster, prune, quantize, rebuild

        model = rebuild(self.student(seed))
        epochs = self.chosen.epochs
        for i, kind in enumerate(chain):
            after, rate = chain[:i], RATES[kind]
            path = self.folder / "runs" / f"{chain[: i + 1]}.by_hand.seed{seed}.npz"
            if path.exists() and kind != "Q":
                with np.load(path) as file:
                    model.set_weights([file[name] for name in file.files])
                continue
            keras.utils.set_random_seed(seed)
            data = self.training_data(seed, taught=False)
            if kind == "Q":
                return quantize(model, data, epochs, rate, after)
            if kind == "P":
                model = prune(model, data, epochs, SPARSITY, rate)
            else:
                model = cluster(model, data, epochs, CLUSTERS, rate, after)
            with atomic_path(path) as temporary:
                np.savez(temporary, *model.get_weights())
        return model

    def measure(self, model, name, quantization):
        """Export a model and return what its file does."""
        file = self.folder / "files" / f"{name}.tflite"
        calibration = self.part[0][:512]
        kd.export_tflite(model, file, quantization, representative_data=calibration, verbose=False)
        result = kd.evaluate_tflite(file, self.test)
        return {
            "accuracy": result.accuracy,
            "bytes": result.bytes,
            "zipped_bytes": result.zipped_bytes,
        }

    def latencies(self, results):
        """Return the latencies of the first seed's files, measured side by side.

        Args:
            results: What was measured, `{chain: {column: {seed: result}}}`.
        """
        shown = {"teacher": "teacher"}
        for chain, columns in results.items():
            for column in columns if not chain else columns.keys() & {"taught"}:
                shown[chain, column] = f"{chain or 'student'}.{column}.seed0"
        paths = {key: self.folder / "files" / f"{name}.tflite" for key, name in shown.items()}
        measured = kd.benchmark_tflite_files(list(paths.values()), rounds=200)
        return {key: measured[str(path)].latency_ms for key, path in paths.items()}

    def result(self, seed, chain, column):
        """Return what is measured of one entry of the table, now or in an earlier run."""
        path = self.folder / "results" / f"{chain or 'student'}.{column}.seed{seed}.json"
        if not path.exists():
            start = time.perf_counter()
            quantization = "int8" if chain.endswith("Q") else "float32"
            if not chain:
                model, quantization = self.student(seed), column
            elif column == "by_hand":
                model = self.by_hand(seed, chain)
            else:
                model = self.compressed(seed, chain, column)
            measured = self.measure(model, path.stem, quantization)
            measured["seconds"] = round(time.perf_counter() - start, 1)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(measured))
            keras.utils.clear_session(free_memory=False)
            print(
                f"seed {seed}, {chain or 'student'}, {column}: {measured['accuracy']:.2%}, "
                f"{measured['seconds']:.0f} s",
                flush=True,
            )
        return json.loads(path.read_text())


def columns_of(chain):
    """Return what is measured of a chain; the empty one is the student before any stage."""
    if not chain:
        return ("float32", "int8")
    return (*TEACHING, "by_hand") if set(chain) <= set("PCQ") else TEACHING


def table(results, teacher):
    """Return the Markdown table.

    Args:
        results: What was measured, `{chain: {column: {seed: result}}}`.
        teacher: What was measured of the teacher's file.
    """
    lines = [
        "| stages | file | taught, % | labels only, % | teaching is worth | by hand, % "
        "| kB | zipped kB | by hand, zipped kB | teacher / zipped | latency, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        f"| teacher | float32 | {100 * teacher['accuracy']:.2f} | | | "
        f"| {teacher['bytes'] / 1e3:.1f} | {teacher['zipped_bytes'] / 1e3:.1f} | | "
        f"| {teacher['latency_ms']:.3f} |",
    ]

    def line(title, file, shown, labels=None, by_hand=None):
        def mean(runs, key, scale):
            return statistics.mean(run[key] for run in runs.values()) / scale

        def accuracy(runs):
            return spread([100 * run["accuracy"] for run in runs.values()]) if runs else ""

        worth = ""
        if labels:
            # Seed by seed: both began with the same student.
            seeds = [seed for seed in shown if seed in labels]
            gains = [100 * (shown[s]["accuracy"] - labels[s]["accuracy"]) for s in seeds]
            worth = f"{statistics.mean(gains):+.2f}"
            worth += f" ± {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
        zipped = mean(shown, "zipped_bytes", 1e3)
        latency = next(iter(shown.values()))["latency_ms"]
        theirs = f"{mean(by_hand, 'zipped_bytes', 1e3):.1f}" if by_hand else ""
        return (
            f"| {title} | {file} | {accuracy(shown)} | {accuracy(labels)} | {worth} "
            f"| {accuracy(by_hand)} | {mean(shown, 'bytes', 1e3):.1f} | {zipped:.1f} "
            f"| {theirs} "
            f"| {teacher['bytes'] / 1e3 / zipped:.0f} | {latency:.3f} |"
        )

    for chain, columns in results.items():
        if not chain:
            for column in columns:
                title = "student" if column == "float32" else "student, int8 after training"
                lines.append(line(title, column, columns[column]))
            continue
        file = "int8" if chain.endswith("Q") else "float32"
        title = " → ".join(KINDS[kind] for kind in chain)
        lines.append(
            line(title, file, columns["taught"], columns.get("labels"), columns.get("by_hand"))
        )
    return "\n".join(lines)


def report(measured):
    """Return the table under lines that say of what it is."""
    settings = measured["settings"]
    return (
        f"{settings['dataset']}: students distilled on {settings['examples']} images for "
        f"{settings['student_epochs']} epochs, then {settings['epochs']} epochs per stage; "
        f"accuracy of the exported file on all {measured['test_examples']} test images, "
        "mean ± sample standard deviation. All three chains of a row begin with the same student. "
        "Sizes are those of the taught students' files, teacher / zipped divides the teacher's "
        "file as it is by them. Latencies are of seed 0's files, measured side by side on a "
        "desktop processor: read them as ratios.\n\n"
        + table(measured["results"], measured["teacher"])
    )


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=RECIPES, default="fashion_mnist")
    parser.add_argument("--out", help="folder of the runs [exports/compression_<dataset>]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... [3]")
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=CHAINS, metavar="CHAIN")
    parser.add_argument("--examples", type=int, default=10_000, help="images for students [10000]")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per stage [2]")
    parser.add_argument("--student-epochs", type=int, default=8, help="[8]")
    parser.add_argument("--teacher-examples", type=int, default=55_000, help="[55000]")
    parser.add_argument("--teacher-epochs", type=int, default=4, help="[4]")
    chosen = parser.parse_args(argv)
    for name in (
        "seeds", "examples", "epochs", "student_epochs", "teacher_examples", "teacher_epochs"
    ):  # fmt: skip
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return chosen


def main(argv=None):
    chosen = arguments(argv)
    folder = pathlib.Path(chosen.out or f"exports/compression_{chosen.dataset}")
    data = load_images(chosen.dataset, RECIPES[chosen.dataset].validation_examples)
    taught = min(chosen.teacher_examples, len(data.train[0]))
    settings = {
        "dataset": chosen.dataset,
        "examples": min(chosen.examples, len(data.train[0])),
        "epochs": chosen.epochs,
        "student_epochs": chosen.student_epochs,
        "teacher_examples": taught,
        "teacher_epochs": chosen.teacher_epochs,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "student_loss_weight": STUDENT_LOSS_WEIGHT,
        "temperature": TEMPERATURE,
        "widths": {role: list(widths) for role, widths in WIDTHS.items()},
        "stages": {KINDS[kind]: stage(kind, chosen.epochs).get_config() for kind in sorted(RATES)},
    }
    defaults = {name: constructor_defaults(getattr(kd, name)) for name in settings["stages"]}
    check_settings(folder, settings, {"stages": defaults})
    print(f"Teacher: {chosen.teacher_epochs} epochs on {taught} images", flush=True)
    teacher = train_teacher(data, taught, chosen.teacher_epochs, folder)
    benchmark = Benchmark(chosen, folder, data, teacher)
    results = {}
    # Seed by seed, so that a part of the runs is a whole table of fewer seeds.
    for seed in range(chosen.seeds):
        for chain in ("", *chosen.chains):
            for column in columns_of(chain):
                result = benchmark.result(seed, chain, column)
                results.setdefault(chain, {}).setdefault(column, {})[seed] = result
    of_teacher = benchmark.measure(teacher, "teacher", "float32")
    latencies = benchmark.latencies(results)
    of_teacher["latency_ms"] = latencies.pop("teacher")
    for (chain, column), latency in latencies.items():
        results[chain][column][0]["latency_ms"] = latency
    measured = {
        "settings": settings,
        "test_examples": len(data.test[1]),
        "teacher": of_teacher,
        "results": results,
    }
    text = report(measured)
    write_results(folder, text, measured)
    print("\n" + text)


if __name__ == "__main__":
    main()
