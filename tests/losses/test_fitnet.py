from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import FitNet


def formula(teacher, student):
    return ((teacher - student) ** 2).mean()


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 2, 4)])
def test_value_and_gradient(check, shape):
    check.golden(FitNet(), formula, check.normal(*shape), check.normal(*shape))


def test_hard_features(check):
    check.hard_features(FitNet(), formula)


def test_sample_weights_and_positions(check):
    check.sample_weights(FitNet(), (4, 3, 2, 5))
    check.positions(FitNet(), (3, 5, 4))


def test_weights_of_pixels_of_another_size_count_by_sample(check):
    teacher, student = check.normal(3, 4, 4, 2), check.normal(3, 4, 4, 2)
    weights = check.random.random((3, 8, 8))
    np.testing.assert_allclose(
        FitNet()(teacher, student, sample_weight=weights),
        FitNet()(teacher, student, sample_weight=weights.mean((1, 2))),
    )


def test_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"\(2, 8\) and the student \(2, 5\).*keras_kd.Hint"):
        FitNet()(np.zeros((2, 8)), np.zeros((2, 5)))


def test_refuses_a_list_of_features():
    with pytest.raises(TypeError, match=r"takes one tensor from the teacher\. Received: 2"):
        FitNet()([np.zeros((2, 8))] * 2, [np.zeros((2, 8))] * 2)


def test_weights_of_positions_may_have_an_axis_of_one(check):
    teacher, student = check.normal(3, 2, 2, 5), check.normal(3, 2, 2, 5)
    weights = check.random.random((3, 2, 2))
    expected = FitNet()(teacher, student, sample_weight=weights)
    for shape in ((3, 2, 2, 1), (3, 2, 2, 1, 1)):
        given = FitNet()(teacher, student, sample_weight=weights.reshape(shape))
        np.testing.assert_allclose(given, expected, rtol=1e-6)
