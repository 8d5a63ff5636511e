from __future__ import annotations

import numpy as np

from keras_kd.losses import CosineRelation


def formula(teacher, student):
    cosines = []
    for x in (teacher, student):
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        cosines.append(unit @ unit.T)
    return ((cosines[0] - cosines[1]) ** 2).sum() / len(teacher) ** 2


def test_value_and_gradient(check):
    check.golden(CosineRelation(), formula, check.normal(5, 7), check.normal(5, 4))


def test_hard_features(check):
    check.hard_features(CosineRelation(), formula)
