from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import StandardizedKL


def formula(teacher, student, temperature=2.0):
    log = []
    for x in (teacher, student):
        z = (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))
        log.append(z / temperature - np.log(np.exp(z / temperature).sum(-1, keepdims=True)))
    return temperature**2 * (np.exp(log[0]) * (log[0] - log[1])).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_gradient(check, temperature):
    check.golden(
        StandardizedKL(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(5, 7),
        check.normal(5, 7),
    )


def test_hard_logits(check):
    check.hard_logits(StandardizedKL(), formula)


def test_equal_logits_have_a_gradient_of_zero(check):
    _, gradient = check.finite(StandardizedKL(), check.normal(2, 4), np.zeros((2, 4)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 4)))


def test_sample_weights_and_positions(check):
    check.sample_weights(StandardizedKL(), (5, 4))
    check.positions(StandardizedKL(), (3, 5, 4))


def test_shift_and_scale_of_the_student_do_not_matter(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    np.testing.assert_allclose(
        StandardizedKL()(teacher, 3.0 * student + 5.0),
        StandardizedKL()(teacher, student),
        rtol=1e-6,
    )


def test_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(ValueError, match="StandardizedKL: `temperature`"):
        StandardizedKL(0)
