"""Networks and data of the benchmarks."""

import keras
import numpy as np

BATCH = 64


def convolutional(channels, name, classes=10, blocks=3):
    """A plain convolutional network; `channels` in the first block, twice as many from then on."""
    inputs = keras.Input((28, 28, 1))
    x = inputs
    for block in range(1, blocks + 1):
        x = keras.layers.Conv2D(
            channels * (1 if block == 1 else 2),
            3,
            strides=2 if block in (2, 3) else 1,
            padding="same",
            use_bias=False,
        )(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU(name=f"block{block}_out")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x), name=name)


def images(steps, classes=10, batch=BATCH):
    """Random images and labels for `steps` steps."""
    random = np.random.default_rng(0)
    x = random.normal(size=(batch * steps, 28, 28, 1)).astype("float32")
    return x, random.integers(0, classes, batch * steps)


def compiled(model, **arguments):
    """The model, compiled with SGD and the cross-entropy of its logits."""
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **arguments,
    )
    return model
