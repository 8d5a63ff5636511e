"""Make the file which the programs of this folder run: digits.tflite, in int8.

    python examples/on_device/make_file.py

Beside it: digits.csv, twenty test digits (label, then 64 pixels from 0 to 255). In micro/: the
same file as a C array for microcontrollers, digits.h and digits.cc.
"""

import pathlib

import keras
import tensorflow as tf
from keras import layers

import keras_kd as kd

FOLDER = pathlib.Path(__file__).parent
EPOCHS = 60


def prepared(split):
    """Return the images with pixels from 0 to 255, as floats: what the file takes."""
    dataset = kd.datasets.load("digits", split=split, as_supervised=True)
    return dataset.map(lambda image, label: (tf.cast(image, tf.float32), label)).cache()


def network(channels, name):
    """Return a classifier of 8x8 pixels. It scales them itself, so that no device can forget to."""
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 255)(image)
    for width, strides in ((channels, 1), (2 * channels, 2), (2 * channels, 1)):
        x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    logits = layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, logits, name=name)


def fit(model, data, steps):
    """Train a model, or a distiller, with Keras's own `compile` and `fit`."""
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * steps)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss=cross_entropy)
    model.fit(data, epochs=EPOCHS, verbose=0)
    return model


def main():
    """Train, export, measure."""
    keras.utils.set_random_seed(0)
    train = prepared("train").shuffle(2000, seed=0).batch(64)
    test = prepared("test").batch(64)
    teacher = fit(network(48, "teacher"), train, len(train))
    distiller = kd.Distiller(
        teacher, network(8, "student"), kd.losses.KLDivergence(4.0), student_loss_weight=0.3
    )
    student = fit(distiller, train, len(train)).student
    path = kd.export_tflite(
        student,
        FOLDER / "digits.tflite",
        "int8",
        representative_data=train,
        batch_size=1,
        class_names=[str(digit) for digit in range(10)],
        preprocessing="8x8 pixels, 0 for paper and 255 for ink, as float32",
        verbose=False,
    )
    rows = [
        ",".join(str(int(number)) for number in (label, *tf.reshape(image, [-1])))
        for image, label in prepared("test").take(20)
    ]
    (FOLDER / "digits.csv").write_text("\n".join(rows) + "\n")
    kd.export_c_array(path, FOLDER / "micro" / "digits")
    print(kd.evaluate_tflite(path, test))


if __name__ == "__main__":
    main()
