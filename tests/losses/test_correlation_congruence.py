from __future__ import annotations

import math

import numpy as np
import pytest

from keras_kd.losses import CorrelationCongruence
from keras_kd.losses.correlation_congruence import kernel_matrix


def formula(teacher, student, gamma=0.4, max_order=2):
    matrices = []
    for x in (teacher, student):
        series = [
            (2 * gamma) ** n / math.factorial(n) * (x @ x.T) ** n for n in range(max_order + 1)
        ]
        matrices.append(math.exp(-2 * gamma) * sum(series))
    return np.linalg.norm(matrices[0] - matrices[1]) / len(teacher) ** 2


@pytest.mark.parametrize("arguments", [{}, {"gamma": 0.1, "max_order": 3}, {"max_order": 1}])
def test_value_and_gradient(check, arguments):
    check.golden(
        CorrelationCongruence(**arguments),
        lambda t, s: formula(t, s, **arguments),
        check.normal(5, 7, scale=0.5),
        check.normal(5, 4, scale=0.5),
    )


def test_hard_features(check):
    check.hard_features(CorrelationCongruence(), formula)


def test_the_series_tends_to_the_gaussian_kernel_of_unit_vectors(check):
    x = check.normal(4, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    gaussian = np.exp(-0.4 * ((x[:, None] - x) ** 2).sum(-1))
    np.testing.assert_allclose(kernel_matrix(x, 0.4, 12), gaussian, rtol=1e-9)


def test_refuses_arguments_that_are_not_positive():
    with pytest.raises(ValueError, match="`gamma` must be a number above 0"):
        CorrelationCongruence(gamma=0.0)
    with pytest.raises(ValueError, match="`max_order` must be"):
        CorrelationCongruence(max_order=0)
    with pytest.raises(ValueError, match="`max_order` must be a whole number"):
        CorrelationCongruence(max_order=1.5)


def test_weights_of_positions_are_averaged_before_the_root(check):
    teacher, student = check.normal(5, 4, 3, scale=0.5), check.normal(5, 4, 2, scale=0.5)
    weights = np.zeros((5, 4), "float32")
    weights[:, 0] = 1.0
    loss = CorrelationCongruence()
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), 0.25 * loss(teacher, student), rtol=1e-6
    )
