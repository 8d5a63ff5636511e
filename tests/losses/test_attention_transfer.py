from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import AttentionTransfer


def pooled(x, sides):
    for axis, m in enumerate(sides, start=1):
        n = x.shape[axis]
        bins = [x.take(range(j * n // m, -(-(j + 1) * n // m)), axis=axis) for j in range(m)]
        x = np.stack([b.mean(axis) for b in bins], axis=axis)
    return x


def formula(teacher, student, p=2):
    sides = [min(a, b) for a, b in zip(teacher.shape[1:-1], student.shape[1:-1], strict=True)]
    maps = []
    for x in (teacher, student):
        flat = (pooled(x, sides) ** p).mean(-1).reshape(len(x), -1)
        maps.append(flat / np.maximum(np.sqrt((flat**2).sum(1, keepdims=True)), 1e-12))
    return ((maps[0] - maps[1]) ** 2).mean()


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ((3, 4, 4, 2), (3, 4, 4, 5)),
        ((2, 5, 4, 3), (2, 3, 2, 2)),
        ((2, 3, 2, 2), (2, 5, 4, 3)),
        ((3, 6, 2), (3, 4, 3)),
    ],
)
def test_value_and_gradient(check, teacher, student):
    check.golden(AttentionTransfer(), formula, check.normal(*teacher), check.normal(*student))


def test_other_powers(check):
    check.golden(
        AttentionTransfer(p=3),
        lambda t, s: formula(t, s, 3),
        check.normal(3, 3, 3, 2),
        check.normal(3, 3, 3, 2),
    )


def test_hard_features(check):
    check.hard_features(AttentionTransfer(), formula, (4, 3, 3, 2))
    check.hard_features(AttentionTransfer(), formula, (4, 4, 4, 2), (4, 3, 3, 5))


def test_sample_weights(check):
    check.sample_weights(AttentionTransfer(), (4, 3, 3, 2))


def test_masked_steps_do_not_count(check):
    teacher, student = check.normal(2, 5, 3), check.normal(2, 5, 3)
    mask = np.array([[True, True, True, False, False]] * 2)
    masked = tf.constant(np.where(mask[..., None], student, 9.0))
    keras.src.backend.set_keras_mask(masked, tf.constant(mask))
    expected = formula(teacher[:, :3], student[:, :3]) * 3 / 5
    np.testing.assert_allclose(AttentionTransfer()(teacher, masked), expected)


def test_refuses_features_without_sides():
    with pytest.raises(ValueError, match=r"a teacher's feature of shape \(2, 8\)"):
        AttentionTransfer()(np.zeros((2, 8)), np.zeros((2, 8)))


@pytest.mark.parametrize("p", [0, 1.5, "2"])
def test_refuses_a_power_that_is_no_whole_number(p):
    with pytest.raises(ValueError, match="`p` must be a whole number"):
        AttentionTransfer(p)
