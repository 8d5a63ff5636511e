from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import RKD, RKDAngle, RKDDistance


def huber(difference):
    return np.where(np.abs(difference) < 1, difference**2 / 2, np.abs(difference) - 0.5).mean()


def formula(teacher, student, distance_weight=25.0, angle_weight=50.0):
    relations = []
    for x in (teacher, student):
        n = len(x)
        d = np.sqrt(np.maximum(((x[:, None] - x) ** 2).sum(-1), 1e-12)) * (1 - np.eye(n))
        e = x[None] - x[:, None]
        e = e / np.maximum(np.sqrt((e**2).sum(-1, keepdims=True)), 1e-12)
        d = d * n * (n - 1) / d.sum() if n > 1 else d
        relations.append((d, np.einsum("kid,kjd->kij", e, e)))
    (d_t, a_t), (d_s, a_s) = relations
    return distance_weight * huber(d_t - d_s) + angle_weight * huber(a_t - a_s)


@pytest.mark.parametrize("arguments", [{}, {"distance_weight": 1.0, "angle_weight": 2.0}])
def test_value_and_gradient(check, arguments):
    check.golden(
        RKD(**arguments),
        lambda t, s: formula(t, s, **arguments),
        check.normal(5, 7),
        check.normal(5, 4),
    )


def test_hard_features(check):
    check.hard_features(RKD(), formula)


def test_call_gives_the_loss(check):
    teacher, student = check.normal(5, 7), check.normal(5, 4)
    np.testing.assert_allclose(RKD().call(teacher, student), formula(teacher, student))


def relative(x):
    squared = ((x[:, None] - x) ** 2).sum(-1)
    d = np.sqrt(np.maximum(squared, 1e-12)) * (1 - np.eye(len(x)))
    return d / d[~np.eye(len(x), dtype=bool)].mean() if len(x) > 1 else d


def by_distance(teacher, student):
    return huber(relative(teacher) - relative(student))


def test_value_and_gradient_of_distances(check):
    check.golden(RKDDistance(), by_distance, check.normal(5, 7), check.normal(5, 4))
    outlier = check.normal(5, 4)
    outlier[0] *= 20.0  # reaches the linear part of the Huber loss
    check.golden(RKDDistance(), by_distance, check.normal(5, 7), outlier)


def test_hard_features_of_distances(check):
    check.hard_features(RKDDistance(), by_distance)


def test_is_exact_on_float32_far_from_the_origin(check):
    teacher, student = (
        (100.0 + 0.1 * check.normal(5, 4)).astype("float32").astype("float64") for _ in range(2)
    )
    np.testing.assert_allclose(
        RKDDistance()(teacher.astype("float32"), student.astype("float32")),
        by_distance(teacher, student),
        rtol=1e-5,
    )


def test_a_batch_of_two_says_nothing(check):
    value, gradient = check.finite(RKDDistance(), check.normal(2, 3), check.normal(2, 3))
    assert value == 0.0
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


def cosines(x):
    result = np.zeros((len(x),) * 3)
    for k, i, j in np.ndindex(*result.shape):
        a, b = x[i] - x[k], x[j] - x[k]
        lengths = [max(np.sqrt(v @ v), 1e-12) for v in (a, b)]
        result[k, i, j] = (a / lengths[0]) @ (b / lengths[1])
    return result


def by_angle(teacher, student):
    return huber(cosines(teacher) - cosines(student))


def test_value_and_gradient_of_angles(check):
    check.golden(RKDAngle(), by_angle, check.normal(5, 7), check.normal(5, 4))


def test_hard_features_of_angles(check):
    check.hard_features(RKDAngle(), by_angle)
