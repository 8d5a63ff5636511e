from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import KLDivergence, ReverseKL


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(teacher, student, temperature=1.0):
    log_t, log_s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(log_s) * (log_s - log_t)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        ReverseKL(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(ReverseKL(), formula)
    for scale in (1e4, 0.0):
        logits = scale * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
        check.finite(ReverseKL(), logits, -logits)


def test_sample_weights_and_positions(check):
    check.sample_weights(ReverseKL(), (5, 4))
    check.positions(ReverseKL(), (3, 5, 4))


def test_is_the_forward_divergence_of_exchanged_sides(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    np.testing.assert_allclose(
        ReverseKL(2.0)(teacher, student), KLDivergence(2.0)(student, teacher), rtol=1e-12
    )


def test_leaves_a_class_that_the_student_finds_unlikely(check):
    teacher = np.log([[0.5, 0.5]])
    student = np.log([[1 - 1e-6, 1e-6]])
    assert ReverseKL()(teacher, student) < 0.7 < 5.0 < KLDivergence(1.0)(teacher, student)
