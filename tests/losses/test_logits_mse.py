from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import LogitsMSE


def formula(teacher, student):
    return ((teacher - student) ** 2).sum() / teacher.size


def test_value_and_gradient(check):
    check.golden(LogitsMSE(), formula, check.normal(5, 7), check.normal(5, 7))


def test_hard_logits(check):
    check.hard_logits(LogitsMSE(), formula)


def test_sample_weights_and_positions(check):
    check.sample_weights(LogitsMSE(), (5, 4))
    check.positions(LogitsMSE(), (3, 5, 4))


def test_outputs_without_an_axis_of_classes(check):
    teacher, student = check.normal(5), check.normal(5)
    np.testing.assert_allclose(LogitsMSE()(teacher, student), formula(teacher, student))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 1), (4, 2)])
def test_few_outputs_are_compared_but_not_standardized(shape):
    teacher, student = np.zeros(shape, "float32"), np.ones(shape, "float32")
    assert float(LogitsMSE()(teacher, student)) == 1.0
    with pytest.raises(ValueError, match=r"three or more. Received: shape \(4"):
        LogitsMSE(standardize=True)(teacher, student)
