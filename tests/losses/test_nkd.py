from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import NKD

LABELS = np.array([3, 0, 5, 1])


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def formula(teacher, student, labels, gamma=1.5, temperature=1.0):
    """Row by row, the label's class deleted."""
    total = 0.0
    for t, s, y in zip(teacher, student, labels, strict=True):
        total -= np.exp(log_softmax(t)[y]) * log_softmax(s)[y]
        t_hat, s_hat = (log_softmax(np.delete(x, y) / temperature) for x in (t, s))
        total -= gamma * temperature**2 * (np.exp(t_hat) * s_hat).sum()
    return total / len(labels)


@pytest.mark.parametrize("arguments", [{}, {"gamma": 0.5, "temperature": 4.0}, {"gamma": 0.0}])
def test_value_and_gradient(check, arguments):
    check.golden(
        NKD(**arguments),
        lambda t, s, labels: formula(t, s, labels, **arguments),
        check.normal(4, 6),
        check.normal(4, 6),
        LABELS,
    )


def test_hard_logits(check):
    check.hard_logits(NKD(), formula, LABELS)


def test_sample_weights_and_positions(check):
    check.sample_weights(NKD(), (4, 6), LABELS)
    check.positions(NKD(), (3, 5, 4), check.random.integers(0, 4, (3, 5)))


def test_positions_without_label_count_zero(check):
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    value, (_, gradient) = check.value_and_gradients(
        NKD(), teacher, student, np.array([3, -1, -1, 1])
    )
    np.testing.assert_allclose(value, formula(teacher[[0, 3]], student[[0, 3]], [3, 1]) / 2)
    assert np.isfinite(gradient).all()


def test_refuses_missing_labels():
    with pytest.raises(ValueError, match="NKD needs labels"):
        NKD()(np.zeros((2, 3)), np.zeros((2, 3)))


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="NKD: `temperature`"):
        NKD(temperature=0)
