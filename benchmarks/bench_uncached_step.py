"""What makes a step that runs its teacher cheaper, and what does not: rows without a bound."""

import functools

import keras
import numpy as np
from networks import BATCH, compiled, convolutional, images
from side_by_side import compare, step_seconds

import keras_kd as kd
from keras_kd.models.features import FeatureReader
from keras_kd.teachers.fastest_form import in_bfloat16

STEPS, TOKENS = 20, 64


def depthwise(channels, name):
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(inputs)
    for _ in range(3):
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Conv2D(channels, 1, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


def transformer(width, name):
    inputs = keras.Input((TOKENS,), dtype="int32")
    x = keras.layers.Embedding(1000, width)(inputs)
    for _ in range(2):
        attended = keras.layers.MultiHeadAttention(4, width // 4)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        dense = keras.layers.Dense(width)(keras.layers.Dense(4 * width, activation="gelu")(x))
        x = keras.layers.LayerNormalization()(x + dense)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


def perceptron(width, name):
    inputs = keras.Input((TOKENS,))
    x = keras.layers.Dense(width, activation="relu")(inputs)
    x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


def data(build):
    random = np.random.default_rng(0)
    if build is transformer:
        return random.integers(0, 1000, (BATCH * STEPS, TOKENS)), images(STEPS)[1]
    if build is perceptron:
        return random.normal(size=(BATCH * STEPS, TOKENS)).astype("float32"), images(STEPS)[1]
    return images(STEPS)


def distiller(teacher, student, **arguments):
    return compiled(kd.Distiller(teacher, student, kd.losses.KLDivergence(4.0)), **arguments)


def measure(name, against, ours, theirs, x, y):
    runs = [
        functools.partial(step_seconds, model, x, y, batch_size=BATCH) for model in (ours, theirs)
    ]
    for run in runs:
        run()  # traces
    compare(name, against, *runs, None)


def xla():
    for build, widths in (
        (convolutional, (32, 16)),
        (depthwise, (64, 32)),
        (transformer, (128, 64)),
        (perceptron, (512, 64)),
    ):
        x, y = data(build)
        teacher = build(widths[0], "teacher")
        ours, theirs = (
            distiller(teacher, build(widths[1], "student"), jit_compile=jit)
            for jit in (True, False)
        )
        measure(f"step under XLA, {build.__name__}", "without XLA", ours, theirs, x, y)


def unfused(teacher, student):
    """A distiller whose teacher is called as Keras calls it."""
    model = distiller(teacher, student)
    model.objective._teacher_reader = FeatureReader(teacher, [])
    run = model.objective._teacher_reader.run
    model.objective._teacher_reader.run = lambda teacher, x: run(teacher, x, training=False)
    return model


def teachers():
    for build, widths in ((convolutional, (32, 16)), (depthwise, (64, 32))):
        x, y = data(build)
        teacher = build(widths[0], "teacher")
        folded = kd.teachers.fold_batch_norms(teacher)

        def student(build=build, width=widths[1]):
            return build(width, "student")

        plain = unfused(teacher, student())
        for name, ours in (
            ("normalizations by one operation (the default)", distiller(teacher, student())),
            ("normalizations folded", distiller(folded, student())),
            ("in bfloat16", distiller(in_bfloat16(teacher), student())),
            ("folded and in bfloat16", distiller(in_bfloat16(folded), student())),
        ):
            measure(
                f"step, {build.__name__} teacher, {name}",
                "the teacher as Keras calls it",
                ours,
                plain,
                x,
                y,
            )


def main():
    keras.utils.set_random_seed(0)
    xla()
    teachers()


if __name__ == "__main__":
    main()
