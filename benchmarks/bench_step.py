"""A training step of keras_kd beside one of keras.distillation: in turn, medians, ratios.

Keras's default KL is not usable (it skips softmax and temperature); it is given the correct one.
"""

import json
import statistics
import time

import keras
import numpy as np

import keras_kd as kd

BATCH, STEPS, ROUNDS = 64, 20, 7


def network(channels, name):
    inputs = keras.Input((28, 28, 1))
    x = inputs
    for block, factor in enumerate((1, 2, 2), start=1):
        x = keras.layers.Conv2D(
            channels * factor, 3, strides=1 if block == 1 else 2, padding="same", use_bias=False
        )(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"block{block}_out")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


def compiled(distiller):
    distiller.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def pair(hint):
    """Return our distiller and Keras's, with equal models and losses."""
    keras.utils.set_random_seed(0)
    teacher = network(32, "teacher")
    ours, theirs = ([kd.losses.KLDivergence(4.0)], [_keras_kl()])
    if hint:
        # Keras has no projection: the layers are as wide.
        ours.append(kd.Hint("block3_out", "block3_out"))
        theirs.append(keras.distillation.FeatureDistillation("mse", "block3_out", "block3_out"))
    width = 32 if hint else 16
    return (
        compiled(kd.Distiller(teacher, network(width, "student"), ours)),
        compiled(keras.distillation.Distiller(teacher, network(width, "student"), theirs)),
    )


def _keras_kl():
    return keras.distillation.LogitsDistillation(temperature=4.0, loss=keras.losses.KLDivergence())


def seconds(distiller, x, y):
    start = time.perf_counter()
    distiller.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / STEPS


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, BATCH * STEPS)
    results = {}
    for name, hint, bound in (("logits KL", False, 1.0), ("KL + one hint", True, 0.75)):
        distillers = pair(hint)
        for distiller in distillers:
            seconds(distiller, x, y)  # traces
        times = [[], []]
        for _ in range(ROUNDS):
            for measured, distiller in zip(times, distillers, strict=True):
                measured.append(seconds(distiller, x, y))
        ours, theirs = (statistics.median(measured) for measured in times)
        print(
            f"{name}: keras_kd {1e3 * ours:.2f} ms a step, keras.distillation {1e3 * theirs:.2f} ms"
        )
        results[name] = {"ratio": round(ours / theirs, 3), "bound": bound, "rounds": ROUNDS}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
