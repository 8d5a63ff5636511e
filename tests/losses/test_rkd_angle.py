from __future__ import annotations

import numpy as np

from keras_kd.losses import RKDAngle


def cosines(x):
    result = np.zeros((len(x),) * 3)
    for k, i, j in np.ndindex(*result.shape):
        a, b = x[i] - x[k], x[j] - x[k]
        lengths = [max(np.sqrt(v @ v), 1e-12) for v in (a, b)]
        result[k, i, j] = (a / lengths[0]) @ (b / lengths[1])
    return result


def formula(teacher, student):
    difference = np.abs(cosines(teacher) - cosines(student))
    return np.where(difference < 1, difference**2 / 2, difference - 0.5).mean()


def test_value_and_gradient(check):
    check.golden(RKDAngle(), formula, check.normal(5, 7), check.normal(5, 4))


def test_hard_features(check):
    check.hard_features(RKDAngle(), formula)
