from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import DKD, KLDivergence
from keras_kd.losses.dkd import target_class_kd
from keras_kd.losses.shared.class_labels import label_mask

LABELS = np.array([3, 0, 5, 1])


def log_sum_exp(x):
    return np.log(np.exp(x - x.max()).sum()) + x.max()


def formula(teacher, student, labels, alpha=1.0, beta=8.0, temperature=4.0):
    """Row by row, the label's class deleted."""
    total = 0.0
    for t, s, y in zip(teacher / temperature, student / temperature, labels, strict=True):
        others = [np.delete(x, y) for x in (t, s)]
        whole = [log_sum_exp(x) for x in (t, s)]
        log_target = [x[y] - z for x, z in zip((t, s), whole, strict=True)]
        log_rest = [log_sum_exp(o) - z for o, z in zip(others, whole, strict=True)]
        tckd = sum(np.exp(log[0]) * (log[0] - log[1]) for log in (log_target, log_rest))
        log_t, log_s = (o - log_sum_exp(o) for o in others)
        nckd = (np.exp(log_t) * (log_t - log_s)).sum()
        total += alpha * tckd + beta * nckd
    return temperature**2 * total / len(labels)


@pytest.mark.parametrize(
    "arguments", [{}, {"alpha": 2.0, "beta": 0.5, "temperature": 1.0}, {"beta": 0.0}, {"alpha": 0}]
)
def test_value_and_gradient(check, arguments):
    check.golden(
        DKD(**arguments),
        lambda t, s, labels: formula(t, s, labels, **arguments),
        check.normal(4, 6),
        check.normal(4, 6),
        LABELS,
    )


def test_hard_logits(check):
    check.hard_logits(DKD(), formula, LABELS)
    check.hard_logits(
        DKD(temperature=1.0), lambda t, s, labels: formula(t, s, labels, temperature=1.0), LABELS
    )


def test_sample_weights_and_positions(check):
    check.sample_weights(DKD(), (4, 6), LABELS)
    check.positions(DKD(), (3, 5, 4), check.random.integers(0, 4, (3, 5)))


def test_one_hot_labels(check):
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    np.testing.assert_allclose(
        DKD()(teacher, student, np.eye(6)[LABELS]), DKD()(teacher, student, LABELS)
    )


def test_the_two_terms_make_up_the_divergence(check):
    """KL = TCKD + (1 - p_t(label)) * NCKD: with the latter weighed so, DKD is KL."""
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    p = np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)
    rest = 1 - p[np.arange(4), LABELS]
    nckd = DKD(alpha=0.0, beta=1.0, temperature=1.0).call(teacher, student, LABELS)
    tckd = target_class_kd(teacher, student, label_mask(LABELS, student))
    np.testing.assert_allclose(
        tckd + rest * nckd, KLDivergence(1.0).call(teacher, student), rtol=1e-9
    )


def test_positions_without_label_count_zero(check):
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    labels = np.array([3, -1, 255, 1])
    kept = [0, 3]
    value, (_, gradient) = check.value_and_gradients(DKD(), teacher, student, labels)
    np.testing.assert_allclose(value, formula(teacher[kept], student[kept], labels[kept]) / 2)
    np.testing.assert_array_equal(gradient[1:3], np.zeros((2, 6)))
    assert np.isfinite(gradient).all()


def test_refuses_missing_labels():
    with pytest.raises(ValueError, match="DKD needs labels"):
        DKD()(np.zeros((2, 3)), np.zeros((2, 3)))


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="DKD: `temperature`"):
        DKD(temperature=0)
