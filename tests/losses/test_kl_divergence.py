from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.losses import KLDivergence


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, temperature=4.0):
    log_t, log_s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        KLDivergence(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(KLDivergence(), formula)
    check.hard_logits(KLDivergence(1.0), lambda t, s: formula(t, s, 1.0))


def test_sample_weights_and_positions(check):
    check.sample_weights(KLDivergence(), (5, 4))
    check.positions(KLDivergence(), (3, 5, 4))
    check.positions(KLDivergence(), (2, 3, 2, 4))


def test_is_exact_on_peaked_logits_where_keras_clips():
    teacher, student = np.array([[50.0, 0.0, -30.0]]), np.array([[0.0, 50.0, -30.0]])
    np.testing.assert_allclose(KLDivergence(1.0)(teacher, student), 50.0, rtol=1e-6)


def test_probabilities_give_the_value_of_their_logits(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    probabilities = [np.exp(log_softmax(x)).astype("float32") for x in (teacher, student)]
    loss = KLDivergence(4.0, from_logits=False)
    np.testing.assert_allclose(loss(*probabilities), formula(teacher, student), rtol=1e-5)
    value, gradient = check.finite(loss, np.eye(3), np.eye(3)[::-1])
    assert value > 10
    assert np.abs(gradient).max() > 0


def test_agrees_with_keras_at_temperature_one(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    expected = keras.losses.KLDivergence()(keras.ops.softmax(teacher), keras.ops.softmax(student))
    np.testing.assert_allclose(KLDivergence(1.0)(teacher, student), expected, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0, -1.0, "4", None, True])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be a number above 0"):
        KLDivergence(temperature)


def test_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"teacher has shape \(2, 10\) and the student \(2, 5\)"):
        KLDivergence()(np.zeros((2, 10)), np.zeros((2, 5)))


def test_refuses_a_single_output():
    with pytest.raises(ValueError, match="BinaryKLDivergence"):
        KLDivergence()(np.zeros((2, 1)), np.zeros((2, 1)))
