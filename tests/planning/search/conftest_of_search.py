"""What is searched in these tests, also by processes of their own."""

import keras
import numpy as np
from keras import layers

import keras_kd as kd


def images(count, seed):
    """Return 8x8 images whose class is the third of the image that is bright."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = generator.uniform(0, 0.8, (count, 8, 8, 1))
    for i, label in enumerate(labels):
        x[i, 3 * label : 3 * label + 2] += 0.2
    return x.astype("float32"), labels


def network(channels, name="student"):
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(channels, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.5, name="bn")(x))
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)


def arguments():
    """Return the arguments of a search of 6 trials among 8 candidates."""
    keras.utils.set_random_seed(0)
    teacher = network(16, "teacher")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"])
    train = images(96, 0)
    teacher.fit(*train, epochs=10, verbose=0)
    return {
        "teacher": teacher,
        "train": train,
        "validation_data": images(90, 1),
        "test_data": images(90, 2),
        "widths": (0.5, 0.25),
        "depths": (1.0,),
        "teachings": {
            "gentle": {"student_loss_weight": 0.1},
            "hard": {"distillation_losses": kd.losses.KLDivergence(1.0)},
        },
        "stages": {"none": []},
        "formats": ("int8", "float16"),
        "epochs": 3,
        "optimizer": keras.optimizers.Adam(0.03),
        "engine": "hyperband",
        "trials": 6,
        "verbose": False,
    }
