from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import KLDivergence, SoftCrossEntropy


def formula(teacher, student, temperature=4.0):
    t, s = teacher / temperature, student / temperature
    p = np.exp(t - t.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    log_sum = np.log(np.exp(s - s.max(-1, keepdims=True)).sum(-1)) + s.max(-1)
    return temperature**2 * (log_sum - (p * s).sum(-1)).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        SoftCrossEntropy(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(SoftCrossEntropy(1.0), lambda t, s: formula(t, s, 1.0))


def test_sample_weights_and_positions(check):
    check.sample_weights(SoftCrossEntropy(), (5, 4))
    check.positions(SoftCrossEntropy(), (3, 5, 4))


def test_the_gradient_is_that_of_the_divergence(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    gradients = [
        check.value_and_gradients(loss, teacher, student)[1][1]
        for loss in (SoftCrossEntropy(2.0), KLDivergence(2.0))
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-9, atol=1e-12)


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="SoftCrossEntropy: `temperature`"):
        SoftCrossEntropy(0.0)
