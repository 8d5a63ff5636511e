from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import ChannelWise


def formula(teacher, student, temperature=4.0):
    total = 0.0
    batch, channels = teacher.shape[0], teacher.shape[-1]
    for t, s in zip(teacher, student, strict=True):
        for c in range(channels):
            logs = []
            for x in (t[..., c].ravel() / temperature, s[..., c].ravel() / temperature):
                x = x - x.max()
                logs.append(x - np.log(np.exp(x).sum()))
            total += (np.exp(logs[0]) * (logs[0] - logs[1])).sum()
    return temperature**2 * total / (batch * channels)


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (3, 5, 2), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, shape, temperature):
    check.golden(
        ChannelWise(temperature),
        lambda t, s: formula(t, s, temperature),
        check.normal(*shape),
        check.normal(*shape),
    )


def test_hard_features(check):
    check.hard_features(ChannelWise(), formula, (4, 3, 3, 2))
    logits = 1e4 * np.where(check.normal(2, 3, 3, 4) > 0, 1.0, -1.0)
    check.finite(ChannelWise(1.0), logits, -logits)


def test_a_constant_added_to_a_channel_changes_nothing(check):
    teacher, student = check.normal(2, 3, 3, 4), check.normal(2, 3, 3, 4)
    shifted = student + np.array([5.0, -3.0, 0.0, 100.0])
    loss = ChannelWise()
    np.testing.assert_allclose(loss(teacher, shifted), loss(teacher, student), rtol=1e-10)


def test_sample_weights_and_masks(check):
    check.sample_weights(ChannelWise(), (4, 3, 3, 2))
    teacher, student = check.normal(3, 6, 2), check.normal(3, 6, 2)
    masked = tf.constant(np.where(np.arange(6)[:, None] < 4, student, 50.0))
    keras.src.backend.set_keras_mask(masked, tf.constant([[True] * 4 + [False] * 2] * 3))
    value, (_, gradient) = check.value_and_gradients(ChannelWise(), teacher, masked)
    expected = ChannelWise()(teacher[:, :4], student[:, :4])
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    assert not np.any(gradient[:, 4:])
    nothing = tf.constant(student)
    keras.src.backend.set_keras_mask(nothing, tf.zeros((3, 6), bool))
    np.testing.assert_allclose(ChannelWise()(teacher, nothing), 0.0, atol=1e-12)


def test_refuses_vectors_and_other_temperatures():
    with pytest.raises(ValueError, match="ChannelWise compares feature maps"):
        ChannelWise()(np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="ChannelWise: `temperature`"):
        ChannelWise(0)
