from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import ICKD


def formula(teacher, student):
    total, channels = 0.0, teacher.shape[-1]
    for t, s in zip(teacher, student, strict=True):
        grams = []
        for x in (t, s):
            rows = x.reshape(-1, channels)
            g = rows.T @ rows
            grams.append(g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12))
        total += ((grams[0] - grams[1]) ** 2).sum()
    return total / (len(teacher) * channels)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [((3, 3, 3, 4), (3, 3, 3, 4)), ((2, 4, 4, 3), (2, 2, 3, 3)), ((3, 6, 3), (3, 6, 3))],
)
def test_value_and_gradient(check, teacher, student):
    check.golden(ICKD(), formula, check.normal(*teacher), check.normal(*student))


def test_hard_features(check):
    check.hard_features(ICKD(), formula, (4, 3, 3, 2))


def test_sample_weights(check):
    check.sample_weights(ICKD(), (4, 3, 3, 2))


def test_refuses_unequal_channels():
    with pytest.raises(ValueError, match="equal numbers of channels"):
        ICKD()(np.zeros((2, 3, 3, 4)), np.zeros((2, 3, 3, 2)))
