from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import ProbabilityMSE


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def formula(teacher, student, temperature=1.0):
    difference = softmax(student / temperature) - softmax(teacher / temperature)
    return (difference**2).sum() / 2 / len(teacher)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        ProbabilityMSE(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(ProbabilityMSE(), formula)


def test_sample_weights_and_positions(check):
    check.sample_weights(ProbabilityMSE(), (5, 4))
    check.positions(ProbabilityMSE(), (3, 5, 4))


def test_probabilities_are_taken_as_they_are():
    teacher, student = np.array([[1.0, 0.0, 0.0]]), np.array([[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(
        ProbabilityMSE(from_logits=False)(teacher, student), 0.5 * (0.25 + 0.125), rtol=1e-6
    )


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="ProbabilityMSE: `temperature`"):
        ProbabilityMSE(-1.0)
