import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.demo.networks import residual_network


def make_data(classes=3, examples=48, batch=16, shape=(8, 8, 1)):
    """Images whose class is told by a bright column."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, examples)
    images = generator.normal(0, 0.3, (examples, *shape)).astype("float32")
    images[np.arange(examples), :, labels * 2] += 1.5
    return tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(batch)


def make_distiller(student, teacher=None, hints=(), metrics=("accuracy",), weight=0.5):
    classes = student.output_shape[-1]
    if teacher is None:
        teacher = residual_network((8, 8, 1), classes, [8], [1], "teacher")
    distiller = kd.Distiller(
        teacher, student, [kd.losses.KLDivergence(temperature=4.0), *hints], None, weight
    )
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
    )
    return distiller


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def student():
    keras.utils.set_random_seed(0)
    return residual_network((8, 8, 1), 3, [4, 8], [1, 1], "student")


@pytest.fixture
def distiller(student):
    return make_distiller(student)
