from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import AlphaBeta, KLDivergence, ReverseKL


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, alpha=0.2, beta=0.7, temperature=1.0):
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    p, q = np.exp(log_p), np.exp(log_q)
    if alpha == beta == 0:
        values = (log_p - log_q) ** 2 / 2
    elif beta == 0:
        values = (p**alpha * (alpha * (log_p - log_q) - 1) + q**alpha) / alpha**2
    elif alpha == 0:
        values = (q**beta * (beta * (log_q - log_p) - 1) + p**beta) / beta**2
    else:
        both = alpha + beta
        values = p**alpha * q**beta - alpha / both * p**both - beta / both * q**both
        values = -values / (alpha * beta)
    return temperature**2 * values.sum(-1).mean()


PAIRS = [(0.2, 0.7), (0.5, 0.5), (1.5, 0.3), (0.4, 0.0), (0.0, 0.6), (0.0, 0.0)]


@pytest.mark.fast_cases("pair0", "pair2", "pair5")
@pytest.mark.parametrize("pair", PAIRS)
def test_value_and_gradient(check, pair):
    for temperature in (1.0, 3.0):
        check.golden(
            AlphaBeta(*pair, temperature),
            lambda t, s: formula(t, s, *pair, temperature),  # noqa: B023
            check.normal(5, 7),
            check.normal(5, 7),
        )


@pytest.mark.parametrize("pair", PAIRS)
def test_hard_logits(check, pair):
    check.hard_logits(AlphaBeta(*pair), lambda t, s: formula(t, s, *pair))
    logits = 1e4 * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
    check.finite(AlphaBeta(*pair), logits, -logits)


@pytest.mark.parametrize("pair", [(0.2, 0.7), (0.3, 0.0), (0.0, 0.3)])
def test_near_distributions_do_not_cancel_in_float32(check, pair):
    teacher = check.normal(3, 50)
    student = (teacher + 1e-3 * check.normal(3, 50)).astype("float32")
    value, _ = check.finite(AlphaBeta(*pair), teacher, student)
    np.testing.assert_allclose(value, formula(teacher, student.astype("d"), *pair), rtol=1e-3)


def test_the_limits_are_the_divergences(check):
    teacher, student = check.normal(5, 7, scale=1.0), check.normal(5, 7, scale=1.0)
    for pair, limit in (((1.0, 0.0), KLDivergence(1.0)), ((0.0, 1.0), ReverseKL())):
        expected = limit(teacher, student)
        np.testing.assert_allclose(AlphaBeta(*pair)(teacher, student), expected, rtol=1e-10)
        near = [value or 1e-5 for value in pair]
        np.testing.assert_allclose(AlphaBeta(*near)(teacher, student), expected, rtol=1e-3)


def test_is_symmetric_where_the_exponents_are_equal_and_zero_where_the_sides_are(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    loss = AlphaBeta(0.5, 0.5)
    np.testing.assert_allclose(loss(teacher, student), loss(student, teacher), rtol=1e-10)
    np.testing.assert_allclose(loss(teacher, teacher), 0.0, atol=1e-12)
    # Four times the squared Hellinger distance with its factor 1/2.
    p, q = (np.exp(log_softmax(x)) for x in (teacher, student))
    hellinger = 2 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1).mean()
    np.testing.assert_allclose(loss(teacher, student), hellinger, rtol=1e-10)


def test_sample_weights_and_positions(check):
    check.sample_weights(AlphaBeta(), (5, 4))
    check.positions(AlphaBeta(), (3, 5, 4))


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_refuses_exponents_below_zero(name):
    with pytest.raises(ValueError, match=f"AlphaBeta: `{name}`"):
        AlphaBeta(**{name: -0.1})
