from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import DIST


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (np.sqrt((a**2).sum()) * np.sqrt((b**2).sum()) + 1e-8)


def formula(teacher, student, beta=1.0, gamma=1.0, temperature=1.0):
    t, s = softmax(teacher / temperature), softmax(student / temperature)
    inter = np.mean([1 - pearson(*row) for row in zip(t, s, strict=True)])
    intra = np.mean([1 - pearson(*column) for column in zip(t.T, s.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize("arguments", [{}, {"beta": 2.0, "gamma": 0.5, "temperature": 4.0}])
def test_value_and_gradient(check, arguments):
    check.golden(
        DIST(**arguments),
        lambda t, s: formula(t, s, **arguments),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(DIST(), formula)


def test_is_exact_where_the_student_is_close(check):
    teacher = check.normal(5, 7)
    student = (teacher + 0.01 * check.normal(5, 7)).astype("float32")
    np.testing.assert_allclose(
        DIST()(teacher.astype("float32"), student),
        formula(teacher, student.astype("float64")),
        rtol=1e-5,
    )


def test_positions_are_rows(check):
    check.positions(DIST(), (3, 5, 4))


def test_call_gives_values_of_which_the_mean_is_the_loss(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    values = DIST().call(teacher, student)
    assert values.shape == (5,)
    np.testing.assert_allclose(np.mean(values), formula(teacher, student))


def test_samples_of_weight_zero_do_not_count(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    kept = weights > 0
    np.testing.assert_allclose(
        DIST()(teacher, student, sample_weight=weights),
        formula(teacher[kept], student[kept]) * 3 / 5,
        rtol=1e-6,
    )


def test_a_weight_of_two_counts_like_two_copies(check):
    teacher, student = check.normal(3, 7), check.normal(3, 7)
    copies = [0, 0, 1, 2]
    np.testing.assert_allclose(
        DIST()(teacher, student, sample_weight=[2.0, 1.0, 1.0]) / 4,
        formula(teacher[copies], student[copies]) / 3,
        rtol=1e-6,
    )


def test_a_mask_and_weights_together(check):
    teacher, student = check.normal(2, 3, 4), tf.constant(check.normal(2, 3, 4))
    keras.src.backend.set_keras_mask(
        student, tf.constant([[True, True, False], [True, False, False]])
    )
    kept = [x.reshape(6, 4)[[0, 1, 3]] for x in (teacher, student.numpy())]
    np.testing.assert_allclose(
        DIST()(teacher, student, sample_weight=[2.0, 2.0]), 2 * formula(*kept), rtol=1e-6
    )


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="DIST: `temperature`"):
        DIST(temperature=0)
