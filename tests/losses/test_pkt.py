from __future__ import annotations

import numpy as np

from keras_kd.losses import PKT


def formula(teacher, student):
    probabilities = []
    for x in (teacher, student):
        unit = x / (np.sqrt((x**2).sum(1, keepdims=True)) + 1e-7)
        similarity = (unit @ unit.T + 1) / 2
        probabilities.append(similarity / similarity.sum(1, keepdims=True))
    q, p = probabilities
    return (q * np.log((q + 1e-7) / (p + 1e-7))).mean()


def test_value_and_gradient(check):
    check.golden(PKT(), formula, check.normal(5, 7), check.normal(5, 4))


def test_hard_features(check):
    check.hard_features(PKT(), formula)


def test_is_exact_where_the_student_is_close(check):
    teacher = check.normal(8, 5)
    student = (teacher + 0.01 * check.normal(8, 5)).astype("float32")
    np.testing.assert_allclose(
        PKT()(teacher.astype("float32"), student),
        formula(teacher, student.astype("float64")),
        rtol=1e-5,
    )


def test_zero_vectors_have_a_gradient_of_zero(check):
    student = check.normal(4, 5)
    student[1] = 0.0
    _, gradient = check.finite(PKT(), check.normal(4, 5), student)
    np.testing.assert_array_equal(gradient[1], np.zeros(5))
    assert np.abs(gradient).max() < 1.0
