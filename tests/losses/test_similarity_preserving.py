from __future__ import annotations

import numpy as np

from keras_kd.losses import SimilarityPreserving


def formula(teacher, student):
    grams = []
    for x in (teacher, student):
        g = x.reshape(len(x), -1) @ x.reshape(len(x), -1).T
        grams.append(g / np.maximum(np.sqrt((g**2).sum(1, keepdims=True)), 1e-12))
    return np.linalg.norm(grams[0] - grams[1], "fro") ** 2 / len(teacher) ** 2


def test_value_and_gradient(check):
    check.golden(SimilarityPreserving(), formula, check.normal(5, 7), check.normal(5, 2, 2, 3))


def test_hard_features(check):
    check.hard_features(SimilarityPreserving(), formula)
