from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import BinaryKLDivergence


def formula(teacher, student, temperature=4.0, weights=1.0):
    t, s = teacher / temperature, student / temperature
    # log(sigmoid(x)) and log(1 - sigmoid(x)), without overflow
    log_p = [-np.logaddexp(0, -x) for x in (t, s)]
    log_q = [-np.logaddexp(0, x) for x in (t, s)]
    divergence = np.exp(log_p[0]) * (log_p[0] - log_p[1]) + np.exp(log_q[0]) * (log_q[0] - log_q[1])
    return temperature**2 * (weights * divergence).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        BinaryKLDivergence(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(BinaryKLDivergence(1.0), lambda t, s: formula(t, s, 1.0))


def test_sample_weights_and_positions(check):
    check.sample_weights(BinaryKLDivergence(), (5, 4))
    check.positions(BinaryKLDivergence(), (3, 5, 1))


def test_one_label_with_and_without_its_axis(check):
    teacher, student = check.normal(6, 1), check.normal(6, 1)
    expected = formula(teacher, student)
    np.testing.assert_allclose(BinaryKLDivergence()(teacher, student), expected)
    np.testing.assert_allclose(BinaryKLDivergence()(teacher[:, 0], student[:, 0]), expected)


def test_probabilities_give_the_value_of_their_logits(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    probabilities = [1 / (1 + np.exp(-x)) for x in (teacher, student)]
    loss = BinaryKLDivergence(from_logits=False)
    np.testing.assert_allclose(loss(*probabilities), formula(teacher, student), rtol=1e-9)
    check.finite(loss, np.eye(3), 1 - np.eye(3))


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="BinaryKLDivergence: `temperature`"):
        BinaryKLDivergence(0)


def test_class_weight_weighs_the_outputs_without_labels(check):
    weights = np.array([1.0, 0.0, 7.0])
    check.golden(
        BinaryKLDivergence(2.0, class_weight={1: 0.0, 2: 7.0}),
        lambda t, s: formula(t, s, 2.0, weights),
        check.normal(5, 3),
        check.normal(5, 3),
    )
