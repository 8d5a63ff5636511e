"""Small students for CIFAR-10, in 8 and in 4 bits, taught and alone.

    python benchmarks/cifar10_students.py --teacher exports/reference/cifar10_teacher.tflite

The teacher is the kept file of `benchmarks/cifar10_teacher.py`, or any other that
`kd.teachers.load` reads. It answers once, for `--views` augmented passes over 45,000 training
images. The last 5,000 are held out: settings are chosen on them. The student is the teacher's
network with fewer channels. It is trained with and without the teacher, with the same images,
epochs and seeds, then exported to int8 and, after `kd.QuantizeAware(weight_bits=4)`, to int4. Every
file is measured on all 10,000 test images. Each part is kept in `--out`; the same command resumes.
Prints a Markdown table.
"""

import argparse
import pathlib
import time

import keras
import tensorflow as tf
from cifar10_teacher import LOSS, augmented, decaying_muon, load, network
from kept_results import check_settings, once, spread, write_results

import keras_kd as kd

WIDTHS = [32, 64, 78]
RATE = 0.04
BATCH = 256
CALIBRATION = 640


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

    def student(self, seed, taught):
        """Return a trained student."""
        path = self.folder / f"{'taught' if taught else 'alone'}_{seed}.keras"
        if path.exists():
            return keras.models.load_model(path)
        keras.utils.set_random_seed(seed)
        student = student_of(self.train[0], self.chosen.widths)
        steps = self.chosen.epochs * (len(self.train[0]) // BATCH)
        optimizer = decaying_muon(steps, self.chosen.rate)
        distiller = compiled(self.teacher, student, optimizer, 0.1 if taught else 1.0)
        data = self.taught()
        distiller(next(iter(data))[0])
        distiller.fit(
            data,
            validation_data=self.held_out,
            epochs=self.chosen.epochs,
            callbacks=[kd.BackupAndRestore(self.folder / f"{path.stem}.backup")],
            verbose=2,
        )
        student.save(path)
        return student

    def quantized(self, seed, taught, student):
        """Return the student after training for 4-bit weights."""
        keras.utils.set_random_seed(seed)
        epochs = self.chosen.quantize_epochs
        steps = epochs * (len(self.train[0]) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        stage = kd.QuantizeAware(epochs=epochs, weight_bits=4, ranges="mse", learning_rate=rate)
        distiller = compiled(self.teacher, student, "adam", 0.1 if taught else 1.0)
        folder = self.folder / f"{'taught' if taught else 'alone'}_{seed}_4_bits"
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

    def rows(self, seed, taught):
        """Return the files of one student."""
        start = time.time()
        student = self.student(seed, taught)
        name = f"{'taught' if taught else 'alone'}_{seed}"
        found = {
            form: self.measured(f"{name}_{form}", student, form) for form in ("float32", "int8")
        }
        four_bits = self.quantized(seed, taught, student)
        found["int4"] = self.measured(f"{name}_int4", four_bits, "int4")
        return {**found, "seconds": round(time.time() - start)}


def files_of(results, kind, form="int4"):
    """Return the files of all seeds in one form; `kind` is `"taught"` or `"alone"`."""
    return [files[form] for key, files in results.items() if key.startswith(kind)]


def table_of(results):
    """Return the Markdown table of `{"taught_0": files, ...}`."""
    lines = [
        "| student | file | bytes | held out, % | test, % | seeds |",
        "|---|---|---|---|---|---|",
        "| published ResNet8 | int8 | 98,496 |  | 86.97 | 1 |",
    ]
    for kind in ("alone", "taught"):
        for form in ("float32", "int8", "int4"):
            rows = files_of(results, kind, form)
            if not rows:
                continue
            size = max(row["bytes"] for row in rows)
            means = [spread([row[part] for row in rows]) for part in ("held_out", "test")]
            cells = [kind, form, f"{size:,}", *means, str(len(rows))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/cifar10"))
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
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
    settings = {k: v for k, v in vars(chosen).items() if k not in ("out", "seeds", "kinds")}
    check_settings(chosen.out, settings)
    run, results = Run(chosen), {}
    for seed in chosen.seeds:
        for kind in chosen.kinds:
            path = chosen.out / f"{kind}_{seed}.json"
            results[f"{kind}_{seed}"] = once(
                path, lambda seed=seed, kind=kind: run.rows(seed, kind == "taught")
            )
    table = table_of(results)
    print(table)
    write_results(chosen.out, table, results)


if __name__ == "__main__":
    main()
