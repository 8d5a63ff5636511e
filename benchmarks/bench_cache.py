"""What a cache of the teacher's outputs costs, and what it saves."""

import pathlib
import tempfile

import keras
import tensorflow as tf
from networks import BATCH, compiled, convolutional, images
from side_by_side import compare, seconds, step_seconds

import keras_kd as kd

STEPS = 40


def batches(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def cached_step(folder):
    """A step with cached outputs beside a step of the student alone, over the same data."""
    teacher = convolutional(32, "teacher")
    train = batches(*images(2 * STEPS))
    taught = kd.teachers.cache(teacher, train, folder / "step", verbose=0)
    distiller = compiled(
        kd.Distiller(teacher, convolutional(16, "student"), kd.losses.KLDivergence(4.0))
    )
    alone = compiled(convolutional(16, "student"))
    runs = [lambda: step_seconds(distiller, taught), lambda: step_seconds(alone, train)]
    for run in runs:
        run()  # traces
    compare("step, cached teacher", "the student trained alone", *runs, 1.05, 11)


def second_epoch(folder):
    """An epoch with a cache beside one that runs a teacher of ten times the student's cost."""
    student_cost = step_cost(convolutional(8, "student"))
    blocks = 3
    while step_cost(convolutional(48, "teacher", blocks=blocks)) < 10 * student_cost:
        blocks += 1
    teacher = convolutional(48, "teacher", blocks=blocks)
    train = batches(*images(STEPS))
    taught = kd.teachers.cache(teacher, train, folder / "epoch", verbose=0)
    distillers = [
        compiled(kd.Distiller(teacher, convolutional(8, "student"), kd.losses.KLDivergence(4.0)))
        for _ in range(2)
    ]
    runs = [
        lambda data=data, distiller=distiller: seconds(
            lambda: distiller.fit(data, epochs=1, verbose=0)
        )
        for data, distiller in zip((taught, train), distillers, strict=True)
    ]
    for run in runs:
        run()  # the first epoch
    compare("epoch 2 onward, cached teacher ten times the student's cost", "uncached", *runs, 0.2)


def step_cost(model):
    """Seconds of a training step of the student, or of a pass of the teacher."""
    x, y = images(6)
    if model.name == "student":
        compiled(model)
        step_seconds(model, x, y, batch_size=BATCH)
        return min(step_seconds(model, x, y, batch_size=BATCH) for _ in range(3))
    run = tf.function(lambda x: model(x, training=False))
    part = tf.constant(x[:BATCH])
    run(part)
    return min(seconds(lambda: run(part)) for _ in range(5))


def building(folder):
    """Building a cache beside `predict` over the same data set."""
    teacher = convolutional(32, "teacher")
    x, y = images(500)
    train = batches(x, y)
    built = iter(range(1_000))

    def build():
        path = folder / f"build{next(built)}"
        return seconds(lambda: kd.teachers.cache(teacher, train, path, verbose=0))

    def predict():
        return seconds(lambda: teacher.predict(train, verbose=0))

    build(), predict()
    compare("building a cache", "`teacher.predict` over the same data", build, predict, 1.1, 5)


def main():
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as name:
        for measure in (cached_step, second_epoch, building):
            measure(pathlib.Path(name))


if __name__ == "__main__":
    main()
