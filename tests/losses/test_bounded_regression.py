from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import BoundedRegression

LABELS = np.random.default_rng(1).normal(size=(8, 3)).astype("float32")


def formula(teacher, student, labels, margin=0.0):
    total = 0.0
    for t, s, y in zip(teacher, student, labels, strict=True):
        error = ((s - y) ** 2).sum()
        total += error if error + margin > ((t - y) ** 2).sum() else 0.0
    return total / len(labels)


@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_value_and_gradient(check, margin):
    check.golden(
        BoundedRegression(margin),
        lambda t, s, labels: formula(t, s, labels, margin),
        check.normal(8, 3),
        check.normal(8, 3),
        LABELS,
    )


def test_only_students_worse_than_the_bound_are_taught():
    teacher, labels = np.array([[1.0], [1.0], [1.0]]), np.zeros((3, 1))
    student = np.array([[2.0], [0.5], [0.9]])
    np.testing.assert_allclose(BoundedRegression().call(teacher, student, labels), [4.0, 0.0, 0.0])
    np.testing.assert_allclose(
        BoundedRegression(0.5).call(teacher, student, labels), [4.0, 0.0, 0.81]
    )


def test_sample_weights_and_positions(check):
    check.sample_weights(BoundedRegression(), (8, 3), LABELS)
    check.positions(BoundedRegression(), (3, 5, 1), check.normal(3, 5))


def test_hard_outputs(check):
    check.finite(BoundedRegression(), 1000 * np.ones((8, 3)), -1000 * np.ones((8, 3)), LABELS)
    check.finite(BoundedRegression(), LABELS[:1], LABELS[:1], LABELS[:1])


def test_labels_without_the_axis_of_values(check):
    teacher, student, labels = check.normal(4, 1), check.normal(4, 1), check.normal(4, 1)
    expected = formula(teacher, student, labels)
    for t, s, y in (
        (teacher, student, labels[:, 0]),
        (teacher[:, 0], student[:, 0], labels[:, 0]),
    ):
        np.testing.assert_allclose(BoundedRegression()(t, s, y), expected)


def test_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels have shape \(4,\), but the outputs \(4, 3\)"):
        BoundedRegression()(np.zeros((4, 3)), np.zeros((4, 3)), np.zeros(4))


@pytest.mark.parametrize("margin", [-1.0, "1", None])
def test_refuses_a_margin_below_zero(margin):
    with pytest.raises(ValueError, match="`margin` must be a number"):
        BoundedRegression(margin)
