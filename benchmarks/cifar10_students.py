"""Small students for CIFAR-10, in 8 and in 4 bits, taught and alone.

    python benchmarks/cifar10_students.py --teacher exports/reference/cifar10_teacher.tflite

The teacher is the kept file of `benchmarks/cifar10_teacher.py`, or any other that
`kd.teachers.load` reads. It answers once, for `--views` augmented passes over 45,000 training
images. The last 5,000 are held out: settings are chosen on them. A student is the teacher's network
with fewer channels, `32-64-78` in its three stages. It is trained with and without the teacher, on
the same images, with the same epochs and seeds, then exported to int8 and, after
`kd.QuantizeAware(weight_bits=4)`, to int4. Every file is measured on all 10,000 test images. Each
part is kept in `--out`; the same command resumes. Prints a Markdown table.
"""

import argparse
import itertools
import pathlib
import time

import keras
import tensorflow as tf
from cifar10_teacher import LOSS, augmented, decaying_muon, load, network
from kept_results import check_settings, once, spread, write_results

import keras_kd as kd

# The channels of the stages: below 98,496 bytes, and the smallest file above 85 %.
STUDENTS = ("32-64-78", "16-32-40")
RATE = 0.04
BATCH = 256
CALIBRATION = 640
# Arguments on which no result depends.
FREE = ("out", "students", "seeds", "kinds")


def widths_of(channels):
    """Return the numbers of `32-64-78`."""
    return [int(width) for width in channels.split("-")]


def student_of(images, widths, depth=1):
    """Return the teacher's network with fewer channels, and ReLU instead of GELU."""
    return network(images, widths, depth, "relu", "student")


def log_teacher(path):
    """Return a teacher that gives logits, where the file gives probabilities."""
    file = kd.teachers.load(path)

    def teacher(images):
        outputs = file(images)
        probabilities = tf.reduce_all(outputs >= 0.0)
        return tf.where(probabilities, tf.math.log(tf.maximum(outputs, 1e-9)), outputs)

    return teacher


def compiled(teacher, student, optimizer, weight):
    """Return a distiller; `weight` is that of the labels."""
    loss = kd.losses.KLDivergence(temperature=4.0)
    distiller = kd.Distiller(teacher, student, loss, student_loss_weight=weight)
    distiller.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    return distiller


class Run:
    """One run of the command, with its folder.

    Args:
        chosen: The arguments of the command.
    """

    def __init__(self, chosen):
        self.chosen, self.folder = chosen, chosen.out
        images, labels = load("train")
        self.train = images[: -chosen.held_out], labels[: -chosen.held_out]
        if chosen.examples:
            self.train = tuple(part[: chosen.examples] for part in self.train)
        self.held_out = images[-chosen.held_out :].astype("float32"), labels[-chosen.held_out :]
        self.test = load("test", "float32")
        self.teacher = log_teacher(chosen.teacher)

    def taught(self):
        """Return the augmented passes with the teacher's outputs, which are computed once."""
        keras.utils.set_random_seed(0)
        return kd.teachers.cache(
            self.teacher,
            augmented(*self.train, BATCH),
            self.folder / "views",
            views=self.chosen.views,
            check_inputs=False,
        )

    def trained(self, name, channels, seed, labels):
        """Return a trained student; `labels` is their weight."""
        path = self.folder / f"{name}.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(seed)
        student = student_of(self.train[0], widths_of(channels))
        steps = self.chosen.epochs * (len(self.train[0]) // BATCH)
        optimizer = decaying_muon(steps, self.chosen.rate)
        distiller = compiled(self.teacher, student, optimizer, labels)
        data = self.taught()
        distiller(next(iter(data))[0])
        distiller.fit(
            data,
            validation_data=self.held_out,
            epochs=self.chosen.epochs,
            callbacks=[kd.BackupAndRestore(self.folder / f"{name}.backup")],
            verbose=2,
        )
        student.save(path)
        return student

    def quantized(self, name, student, seed, labels):
        """Return the student after training for 4-bit weights."""
        keras.utils.set_random_seed(seed)
        epochs = self.chosen.quantize_epochs
        steps = epochs * (len(self.train[0]) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        stage = kd.QuantizeAware(epochs=epochs, weight_bits=4, ranges="mse", learning_rate=rate)
        distiller = compiled(self.teacher, student, "adam", labels)
        folder = self.folder / f"{name}_4_bits"
        return kd.compress(distiller, self.taught(), stages=[stage], path=folder, verbose=2)

    def measured(self, name, model, quantization):
        """Return what a file of a model is."""
        path = self.folder / f"{name}.tflite"
        some = self.train[0][:CALIBRATION].astype("float32")
        data = None if quantization == "int4" else some
        kd.export_tflite(model, path, quantization, representative_data=data, verbose=False)
        return {"bytes": path.stat().st_size} | {
            part: round(100 * kd.evaluate_tflite(path, data, runs=1, verbose=False).accuracy, 2)
            for part, data in (("held_out", self.held_out), ("test", self.test))
        }

    def files(self, kind, channels, seed):
        """Return the files of one student."""
        start = time.time()
        name, labels = f"{kind}_{channels}_{seed}", 0.1 if kind == "taught" else 1.0
        student = self.trained(name, channels, seed, labels)
        found = {
            form: self.measured(f"{name}_{form}", student, form) for form in ("float32", "int8")
        }
        four_bits = self.quantized(name, student, seed, labels)
        found["int4"] = self.measured(f"{name}_int4", four_bits, "int4")
        return {**found, "seconds": round(time.time() - start)}


def files_of(results, kind, channels=STUDENTS[0], form="int4"):
    """Return the files of all seeds in one form; `kind` is `"taught"` or `"alone"`."""
    start = f"{kind}_{channels}_"
    return [files[form] for key, files in results.items() if key.startswith(start)]


def table_of(results):
    """Return the Markdown table of `{"taught_32-64-78_0": files, ...}`."""
    lines = [
        "| channels | training | file | bytes | held out, % | test, % | seeds |",
        "|---|---|---|---|---|---|---|",
        "| ResNet8 | as published | int8 | 98,496 |  | 86.97 | 1 |",
    ]
    names = sorted({tuple(key.split("_")[1::-1]) for key in results}, reverse=True)
    for channels, kind in names:
        for form in ("float32", "int8", "int4"):
            rows = files_of(results, kind, channels, form)
            size = max(row["bytes"] for row in rows)
            means = [spread([row[part] for row in rows]) for part in ("held_out", "test")]
            cells = [channels, kind, form, f"{size:,}", *means, str(len(rows))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/cifar10"))
    parser.add_argument("--students", nargs="+", default=STUDENTS, metavar="CHANNELS")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--quantize-epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--examples", type=int, help="training images [all but the held-out ones]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=["taught", "alone"])
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(chosen).items() if k not in FREE}
    check_settings(chosen.out, settings)
    run, results = Run(chosen), {}
    for of_one in itertools.product(chosen.kinds, chosen.students, chosen.seeds):
        name = "_".join(map(str, of_one))
        path = chosen.out / f"{name}.json"
        results[name] = once(path, lambda of_one=of_one: run.files(*of_one))
    table = table_of(results)
    print(table)
    write_results(chosen.out, table, results)


if __name__ == "__main__":
    main()
