from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import losses

RELATIONS = [
    losses.CosineRelation,
    losses.SimilarityPreserving,
    losses.RKDDistance,
    losses.RKDAngle,
    losses.PKT,
]


@pytest.mark.parametrize("relation", RELATIONS)
def test_weights_weigh_pairs(check, relation):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    weights = np.array([0.0, 1.0, 2.0, 0.5])
    values = relation().call(tf.constant(teacher), tf.constant(student)).numpy()
    outer = weights[:, None] * weights
    if values.ndim == 3:
        outer = outer[..., None] * weights
    expected = (outer * values).mean()
    for given in (weights, weights[:, None]):
        np.testing.assert_allclose(relation()(teacher, student, sample_weight=given), expected)


def test_weights_in_the_combination_and_under_the_norm(check):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    weights = np.array([0.0, 1.0, 2.0, 0.5])
    expected = 2 * losses.RKDDistance()(teacher, student, sample_weight=weights) + 3 * (
        losses.RKDAngle()(teacher, student, sample_weight=weights)
    )
    np.testing.assert_allclose(
        losses.RKD(2.0, 3.0)(teacher, student, sample_weight=weights), expected
    )
    loss = losses.CorrelationCongruence()
    difference = loss.call(tf.constant(teacher), tf.constant(student)).numpy()
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights),
        np.sqrt((weights[:, None] * weights * difference**2).sum()) / 16,
    )


@pytest.mark.parametrize("relation", [*RELATIONS, losses.RKD, losses.CorrelationCongruence])
def test_maps_are_flattened(check, relation):
    teacher, student = check.normal(4, 2, 3, 2), check.normal(4, 3, 5)
    np.testing.assert_allclose(
        relation()(teacher, student), relation()(teacher.reshape(4, -1), student.reshape(4, -1))
    )


@pytest.mark.parametrize("relation", [*RELATIONS, losses.RKD, losses.CorrelationCongruence])
def test_masked_steps_are_zero_on_both_sides(check, relation):
    teacher, student = check.normal(4, 3, 2), check.normal(4, 3, 2)
    mask = np.array([[True, True, False]] * 4)
    masked = tf.constant(student)
    keras.src.backend.set_keras_mask(masked, tf.constant(mask))
    np.testing.assert_allclose(
        relation()(teacher, masked), relation()(teacher[:, :2], student[:, :2])
    )


def test_a_batch_of_unknown_size(check):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    run = tf.function(
        losses.RKD(),
        input_signature=[tf.TensorSpec((None, n), "float64") for n in (3, 5)],
    )
    np.testing.assert_allclose(run(teacher, student), losses.RKD()(teacher, student))


def test_refuses_batches_of_unequal_size():
    with pytest.raises(ValueError, match=r"samples of one batch.*\(4, 3\).*\(5, 3\)"):
        losses.PKT()(np.zeros((4, 3)), np.zeros((5, 3)))


def test_refuses_weights_of_another_batch():
    with pytest.raises(ValueError, match=r"`sample_weight` has shape \(3,\).*4 samples"):
        losses.PKT()(np.zeros((4, 3)), np.zeros((4, 3)), sample_weight=np.ones(3))
