from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import RKD


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
