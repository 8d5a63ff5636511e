from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import PearsonFeatures


def formula(teacher, student):
    standard = []
    for x in (teacher, student):
        rows = x.reshape(-1, x.shape[-1])
        deviation = np.sqrt(((rows - rows.mean(0)) ** 2).sum(0) / max(len(rows) - 1, 1))
        standard.append((rows - rows.mean(0)) / (deviation + 1e-6))
    return ((standard[0] - standard[1]) ** 2).mean() / 2


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (3, 5, 2), (2, 2, 2, 2, 2)])
def test_value_and_gradient(check, shape):
    check.golden(PearsonFeatures(), formula, check.normal(*shape), check.normal(*shape))


def test_hard_features(check):
    check.hard_features(PearsonFeatures(), formula, (4, 3, 3, 2))
    check.finite(PearsonFeatures(), 1e4 * check.normal(1, 1, 1, 2), check.normal(1, 1, 1, 2))


def test_is_one_minus_the_correlation(check):
    teacher, student = check.normal(4, 5, 5, 3), check.normal(4, 5, 5, 3)
    rows = [x.reshape(-1, 3) for x in (teacher, student)]
    pearson = [np.corrcoef(rows[0][:, c], rows[1][:, c])[0, 1] for c in range(3)]
    # The sum of squares is over n values, the deviation over n - 1.
    expected = (1 - np.mean(pearson)) * (len(rows[0]) - 1) / len(rows[0])
    np.testing.assert_allclose(PearsonFeatures()(teacher, student), expected, rtol=1e-5)


def test_scale_and_offset_of_a_channel_do_not_matter(check):
    teacher, student = check.normal(4, 5, 5, 3), check.normal(4, 5, 5, 3)
    changed = student * np.array([0.5, 3.0, 100.0]) + np.array([7.0, -1.0, 0.0])
    loss = PearsonFeatures()
    np.testing.assert_allclose(loss(teacher, changed), loss(teacher, student), rtol=1e-5)


def test_sample_weights_weigh_the_differences(check):
    teacher, student = check.normal(4, 3, 3, 2), check.normal(4, 3, 3, 2)
    loss, weights = PearsonFeatures(), np.array([0.0, 1.0, 2.0, 0.5])
    each = [loss(teacher, student, sample_weight=4.0 * np.eye(4)[i]) for i in range(4)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-10
    )
    np.testing.assert_allclose(np.mean(each), formula(teacher, student), rtol=1e-10)


def test_masked_positions_count_in_neither_statistics_nor_mean(check):
    teacher, student = check.normal(3, 6, 2), check.normal(3, 6, 2)
    masked = tf.constant(np.where(np.arange(6)[:, None] < 4, student, 50.0))
    keras.src.backend.set_keras_mask(masked, tf.constant([[True] * 4 + [False] * 2] * 3))
    np.testing.assert_allclose(
        PearsonFeatures()(teacher, masked), formula(teacher[:, :4], student[:, :4]), rtol=1e-10
    )


def test_refuses_unequal_channels():
    with pytest.raises(ValueError, match="equal numbers of channels"):
        PearsonFeatures()(np.zeros((2, 3, 3, 4)), np.zeros((2, 3, 3, 2)))
