from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import KLDivergence, ReverseKL, SkewKL


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, alpha=0.1, reverse=False, temperature=1.0):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    if reverse:
        p, q = q, p
    mixture = np.logaddexp(p + np.log(alpha), q + np.log(1 - alpha))
    return temperature**2 * (np.exp(p) * (p - mixture)).sum(-1).mean()


@pytest.mark.parametrize(
    ("alpha", "reverse", "temperature"), [(0.1, False, 1.0), (0.1, True, 1.0), (0.5, True, 3.0)]
)
def test_value_and_gradient(check, alpha, reverse, temperature):
    check.golden(
        SkewKL(alpha, reverse, temperature),
        lambda t, s: formula(t, s, alpha, reverse, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_hard_logits(check, reverse):
    loss = SkewKL(reverse=reverse)
    check.hard_logits(loss, lambda t, s: formula(t, s, reverse=reverse))
    logits = 1e4 * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
    value, _ = check.finite(loss, logits, -logits)
    assert value <= -np.log(0.1) * (1 + 1e-6)


def test_sample_weights_and_positions(check):
    check.sample_weights(SkewKL(), (5, 4))
    check.positions(SkewKL(reverse=True), (3, 5, 4))


def test_without_skew_it_is_the_divergence(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    for reverse, expected in ((False, KLDivergence(2.0)), (True, ReverseKL(2.0))):
        value = SkewKL(0.0, reverse, 2.0)(teacher, student)
        np.testing.assert_allclose(value, expected(teacher, student), rtol=1e-12)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, None])
def test_refuses_an_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="SkewKL: `alpha`"):
        SkewKL(alpha)
