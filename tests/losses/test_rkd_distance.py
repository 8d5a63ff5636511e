from __future__ import annotations

import numpy as np

from keras_kd.losses import RKDDistance


def relative(x):
    squared = ((x[:, None] - x) ** 2).sum(-1)
    d = np.sqrt(np.maximum(squared, 1e-12)) * (1 - np.eye(len(x)))
    return d / d[~np.eye(len(x), dtype=bool)].mean() if len(x) > 1 else d


def formula(teacher, student):
    difference = np.abs(relative(teacher) - relative(student))
    return np.where(difference < 1, difference**2 / 2, difference - 0.5).mean()


def test_value_and_gradient(check):
    check.golden(RKDDistance(), formula, check.normal(5, 7), check.normal(5, 4))
    outlier = check.normal(5, 4)
    outlier[0] *= 20.0  # reaches the linear part of the Huber loss
    check.golden(RKDDistance(), formula, check.normal(5, 7), outlier)


def test_hard_features(check):
    check.hard_features(RKDDistance(), formula)


def test_is_exact_on_float32_far_from_the_origin(check):
    teacher, student = (
        (100.0 + 0.1 * check.normal(5, 4)).astype("float32").astype("float64") for _ in range(2)
    )
    np.testing.assert_allclose(
        RKDDistance()(teacher.astype("float32"), student.astype("float32")),
        formula(teacher, student),
        rtol=1e-5,
    )


def test_a_batch_of_two_says_nothing(check):
    value, gradient = check.finite(RKDDistance(), check.normal(2, 3), check.normal(2, 3))
    assert value == 0.0
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)
