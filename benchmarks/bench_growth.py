"""How the cost of a step grows: with classes, hints, the teacher and the data (no bounds).

What the losses of many classes take of memory is printed by `bench_large_vocabulary.py`.
"""

import functools
import pathlib
import tempfile

import keras
import tensorflow as tf
from networks import BATCH, compiled, convolutional, images
from side_by_side import compare, seconds, step_seconds

import keras_kd as kd

STEPS, ROUNDS = 20, 5


def beside_the_student_alone(name, distiller, student, x, y):
    runs = [
        functools.partial(step_seconds, model, x, y, batch_size=BATCH)
        for model in (distiller, compiled(student))
    ]
    for run in runs:
        run()  # traces
    compare(name, "the student trained alone", *runs, None, ROUNDS)


def classes():
    for number in (10, 100, 1_000, 10_000, 100_000):
        x, y = images(8 if number > 10_000 else STEPS, number)
        teacher, student, alone = (
            convolutional(width, name, number)
            for width, name in ((32, "teacher"), (16, "student"), (16, "alone"))
        )
        distiller = compiled(kd.Distiller(teacher, student, kd.losses.KLDivergence(4.0)))
        beside_the_student_alone(f"step, {number:,} classes", distiller, alone, x, y)


def hints():
    x, y = images(STEPS)
    for number in (0, 1, 2, 3):
        teacher, student, alone = (
            convolutional(width, name) for width, name in ((32, "teacher"), (16, "s"), (16, "a"))
        )
        names = [f"block{block}_out" for block in (3, 2, 1)[:number]]
        losses = [kd.losses.KLDivergence(4.0), *(kd.Hint(layer, layer) for layer in names)]
        distiller = compiled(kd.Distiller(teacher, student, losses))
        beside_the_student_alone(f"step, hints: {number}", distiller, alone, x, y)


def teachers():
    x, y = images(STEPS)
    for width in (16, 32, 64, 128):
        teacher, student, alone = (
            convolutional(channels, name)
            for channels, name in ((width, "teacher"), (16, "s"), (16, "a"))
        )
        distiller = compiled(kd.Distiller(teacher, student, kd.losses.KLDivergence(4.0)))
        name = f"step, teacher of {teacher.count_params():,} parameters"
        beside_the_student_alone(name, distiller, alone, x, y)


def examples():
    """The second epoch with a cache, by example, beside that of the smallest data set."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in (50, 200, 800):
            train = tf.data.Dataset.from_tensor_slices(images(steps)).batch(BATCH)
            teacher = convolutional(8, "teacher")
            taught = kd.teachers.cache(teacher, train, pathlib.Path(folder, str(steps)), verbose=0)
            distiller = compiled(
                kd.Distiller(teacher, convolutional(8, "student"), kd.losses.KLDivergence(4.0))
            )
            distiller.fit(taught, verbose=0)

            def epoch(distiller=distiller, taught=taught, steps=steps):
                return seconds(lambda: distiller.fit(taught, verbose=0)) / steps

            runs.append((steps * BATCH, epoch))
        for number, run in runs[1:]:
            against = f"one of {runs[0][0]:,} examples"
            name = f"cached epoch of {number:,} examples, by example"
            compare(name, against, run, runs[0][1], None, ROUNDS)


def main():
    keras.utils.set_random_seed(0)
    for measure in (classes, hints, teachers, examples):
        measure()


if __name__ == "__main__":
    main()
