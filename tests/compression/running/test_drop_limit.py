import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.compression.running.drop_limit import evaluate_teacher

IDS = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0]])
LABELS = np.where(IDS == 0, 1, IDS % 3)  # wrong at every position of padding
OUTPUTS = np.eye(3, dtype="float32")[IDS % 3] * 5 - 1


@pytest.fixture
def student():
    i = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(4, 3, mask_zero=True)(i)
    return keras.Model(i, keras.layers.Dense(3)(hidden))


@pytest.mark.parametrize("kind", ["function", "brought along", "masked model"])
def test_a_teacher_is_measured_where_the_student_is(student, kind):
    teacher = {
        "function": lambda ids: tf.one_hot(ids % 3, 3) * 5.0 - 1.0,
        "brought along": None,
        "masked model": keras.models.clone_model(student),
    }[kind]
    x = kd.teachers.TaughtInputs(IDS, OUTPUTS) if teacher is None else IDS
    if kind == "masked model":
        weights = np.eye(3, dtype="float32")
        teacher.set_weights([weights[np.arange(4) % 3], weights, np.zeros(3)])
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence())
    distiller.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.evaluate(x, LABELS, verbose=0)
    data = tf.data.Dataset.from_tensors((x, LABELS))
    assert evaluate_teacher(distiller, data)["accuracy"] == 1.0
