from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import JensenShannon, KLDivergence, ReverseKL


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, beta=0.5, temperature=1.0):
    log_t, log_s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    mixture = np.logaddexp(log_t + np.log(beta), log_s + np.log(1 - beta))
    parts = [np.exp(x) * (x - mixture) for x in (log_t, log_s)]
    return temperature**2 * (beta * parts[0] + (1 - beta) * parts[1]).sum(-1).mean()


@pytest.mark.parametrize(("beta", "temperature"), [(0.5, 1.0), (0.1, 1.0), (0.9, 4.0)])
def test_value_and_gradient(check, beta, temperature):
    check.golden(
        JensenShannon(beta, temperature),
        lambda t, s: formula(t, s, beta, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(JensenShannon(), formula)
    logits = 1e4 * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
    check.finite(JensenShannon(), logits, -logits)


def test_sample_weights_and_positions(check):
    check.sample_weights(JensenShannon(), (5, 4))
    check.positions(JensenShannon(0.3), (3, 5, 4))


def test_is_symmetric_and_at_most_log_2(check):
    for scale in (1.0, 100.0, 1e4):
        teacher, student = check.normal(6, 9, scale=scale), check.normal(6, 9, scale=scale)
        value = float(JensenShannon()(teacher, student))
        np.testing.assert_allclose(value, JensenShannon()(student, teacher), rtol=1e-12)
        assert 0 < value <= np.log(2) * (1 + 1e-12)
    apart = np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]])
    np.testing.assert_allclose(JensenShannon()(*apart), np.log(2))


def test_the_limits_are_the_divergences(check):
    teacher, student = check.normal(5, 7, scale=1.0), check.normal(5, 7, scale=1.0)
    for beta, limit in ((0.0, KLDivergence(1.0)), (1.0, ReverseKL())):
        expected = limit(teacher, student)
        np.testing.assert_allclose(JensenShannon(beta)(teacher, student), expected, rtol=1e-12)
        near = abs(beta - 1e-6)
        value = JensenShannon(near)(teacher, student) / 1e-6
        np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("beta", [-0.1, 1.1, "0.5", True])
def test_refuses_a_beta_out_of_range(beta):
    with pytest.raises(ValueError, match="JensenShannon: `beta`"):
        JensenShannon(beta)
