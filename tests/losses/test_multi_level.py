from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import KLDivergence, MultiLevel


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), weights=None):
    rows, classes = teacher.shape
    weights = np.ones(rows) if weights is None else weights
    total = 0.0
    for temperature in temperatures:
        log_t, log_s = log_softmax(teacher / temperature), log_softmax(student / temperature)
        t, s = np.exp(log_t), np.exp(log_s)
        kl = (t * (log_t - log_s)).sum(-1)
        total += temperature**2 * (weights * kl).sum() / rows
        pairs = (t @ t.T - s @ s.T) ** 2
        total += (weights[:, None] * weights * pairs).sum() / rows
        relations = sum(
            w * (np.outer(a, a) - np.outer(b, b)) for w, a, b in zip(weights, t, s, strict=True)
        )
        total += (relations**2).sum() / classes
    return total


def standardized(x):
    return (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))


@pytest.mark.parametrize("temperatures", [(1.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_value_and_gradient(check, temperatures):
    check.golden(
        MultiLevel(temperatures),
        lambda t, s: formula(t, s, temperatures),
        check.normal(5, 7),
        check.normal(5, 7),
    )


@pytest.mark.promise
def test_standardized_value_and_gradient(check):
    check.golden(
        MultiLevel(standardize=True),
        lambda t, s: formula(standardized(t), standardized(s)),
        check.normal(5, 7),
        check.normal(5, 7),
    )


@pytest.mark.parametrize("standardize", [False, True])
def test_hard_logits(check, standardize):
    change = standardized if standardize else lambda x: x
    check.hard_logits(
        MultiLevel(standardize=standardize), lambda t, s: formula(change(t), change(s))
    )
    logits = 1e4 * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
    check.finite(MultiLevel(standardize=standardize), logits, -logits)


def test_sample_weights_weigh_rows_and_pairs(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    weights = np.array([0.0, 1.0, 2.0, 0.5, 1.5])
    np.testing.assert_allclose(
        MultiLevel()(teacher, student, sample_weight=weights),
        formula(teacher, student, weights=weights),
        rtol=1e-6,
    )


def test_positions_are_rows_and_masked_ones_do_not_count(check):
    check.positions(MultiLevel(), (3, 5, 4))


def test_equal_sides_are_zero_and_it_is_never_below_the_divergences(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    np.testing.assert_allclose(MultiLevel()(teacher, teacher), 0.0, atol=1e-12)
    divergences = sum(float(KLDivergence(float(t))(teacher, student)) for t in (2, 3, 4, 5, 6))
    assert MultiLevel()(teacher, student) > divergences


@pytest.mark.parametrize("temperatures", [(), (2.0, 0.0), 4.0, ("2",)])
def test_refuses_wrong_temperatures(temperatures):
    with pytest.raises(ValueError, match="MultiLevel: `temperatures`"):
        MultiLevel(temperatures)
