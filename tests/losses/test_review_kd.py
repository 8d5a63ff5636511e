from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import ReviewKD
from keras_kd.losses.review_kd import hierarchical_context, resize_nearest


def pooled(x, side):
    for axis in (1, 2):
        n = x.shape[axis]
        bins = [
            x.take(range(j * n // side, -(-(j + 1) * n // side)), axis=axis) for j in range(side)
        ]
        x = np.stack([b.mean(axis) for b in bins], axis=axis)
    return x


def context(teacher, student, sizes):
    """`sizes`: pairs of a side and its weight."""
    total = ((teacher - student) ** 2).mean()
    for side, weight in sizes:
        total += weight * ((pooled(teacher, side) - pooled(student, side)) ** 2).mean()
    return total / (1 + sum(weight for _, weight in sizes))


SIZES = {
    8: [(4, 1 / 2), (2, 1 / 4), (1, 1 / 8)],
    5: [(4, 1 / 2), (2, 1 / 4), (1, 1 / 8)],
    4: [(2, 1 / 2), (1, 1 / 4)],
    2: [(1, 1 / 2)],
    1: [],
}


@pytest.mark.parametrize("side", SIZES)
def test_hierarchical_context(check, side):
    teacher, student = check.normal(2, side, side, 3), check.normal(2, side, side, 3)
    values = hierarchical_context(tf.constant(teacher), tf.constant(student))
    assert values.shape == (2,)
    np.testing.assert_allclose(np.mean(values), context(teacher, student, SIZES[side]))


def test_resize_nearest():
    x = tf.reshape(tf.range(3.0), (1, 3, 1, 1))
    np.testing.assert_array_equal(
        resize_nearest(x, (5, 1))[0, :, 0, 0],
        [0, 0, 1, 1, 2],
    )
    np.testing.assert_array_equal(resize_nearest(x, (2, 1))[0, :, 0, 0], [0, 1])


def convolve(x, kernel):
    """Convolution with zeros around, tap by tap."""
    side = kernel.shape[0]
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = x.shape[1:3]
    return sum(
        padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(side) for j in range(side)
    )


def normalize(x, layer):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def formula_of(loss):
    shallow, deep = loss.parameters.fusions

    def formula(teacher, student):
        x = student[1].reshape(len(student[1]), 1, 1, -1)
        deeper = normalize(convolve(x, deep.reduce.kernel.numpy()), deep.reduce_norm)
        fused = normalize(convolve(deeper, deep.expand.kernel.numpy()), deep.expand_norm)
        total = context(teacher[1].reshape(fused.shape), fused, SIZES[1])
        x = normalize(convolve(student[0], shallow.reduce.kernel.numpy()), shallow.reduce_norm)
        deeper = np.broadcast_to(deeper, x.shape)
        attention = np.concatenate([x, deeper], -1) @ shallow.attention.kernel.numpy()[0, 0]
        attention = 1 / (1 + np.exp(-attention - shallow.attention.bias.numpy()))
        x = x * attention[..., :1] + deeper * attention[..., 1:]
        x = x.repeat(2, axis=1).repeat(2, axis=2)  # to the teacher's size
        fused = normalize(convolve(x, shallow.expand.kernel.numpy()), shallow.expand_norm)
        return total + context(teacher[0], fused, SIZES[4])

    return formula


@pytest.fixture
def maps(check):
    teacher = [check.normal(3, 4, 4, 3), check.normal(3, 6)]
    student = [check.normal(3, 2, 2, 2), check.normal(3, 4)]
    return teacher, student


def built(maps, **arguments):
    loss = ReviewKD(**arguments)
    loss.build(*([(None, *x.shape[1:]) for x in side] for side in maps))
    return loss


def run(loss, teacher, student, dtype="float32", **arguments):
    inputs = [tf.constant(x, dtype) for x in student]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss([tf.constant(x, dtype) for x in teacher], inputs, **arguments)
    return value, tape.gradient(value, inputs)


def test_value_and_gradients(check, maps):
    loss = built(maps, mid_channels=5)
    teacher, student = maps
    formula = formula_of(loss)
    value, gradients = run(loss, teacher, student)
    np.testing.assert_allclose(value, formula(teacher, student), rtol=1e-5)
    for i in (0, 1):
        expected = check.numeric_gradient(
            lambda x, i=i: formula(teacher, [*student[:i], x, *student[i + 1 :]]), student[i]
        )
        np.testing.assert_allclose(
            gradients[i], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.promise
def test_the_fusions_are_trained(maps):
    loss = built(maps)
    assert loss.parameters.fusions[0].mid_channels == 4
    optimizer = keras.optimizers.Adam(0.02)
    variables = loss.parameters.trainable_variables
    # Two convolutions and two normalizations each, and one attention.
    assert len(variables) == 2 * (2 + 4) + 2
    before = float(loss(*maps))
    for _ in range(30):
        with tf.GradientTape() as tape:
            value = loss(*maps)
        gradients = tape.gradient(value, variables)
        assert all(gradient is not None for gradient in gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    assert float(loss(*maps)) < 0.8 * before


def test_hard_features(maps):
    loss = built(maps)
    for scale in (0.0, 1000.0):
        value, gradients = run(loss, maps[0], [scale * x for x in maps[1]])
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
    value, gradients = run(loss, *([x[:1] for x in side] for side in maps))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_sample_weights(maps):
    loss, weights = built(maps), np.array([0.0, 1.0, 2.0], "float32")
    layers = [[tf.constant(x, tf.float32) for x in side] for side in maps]
    values = loss.call(*layers)
    assert values.shape == (3,)
    np.testing.assert_allclose(
        loss(*layers, sample_weight=weights), np.mean(weights * values), rtol=1e-5
    )


def test_half_precision_compilation_and_serialization(maps):
    loss = built(maps)
    half = [[tf.cast(x, "float16") for x in side] for side in maps]
    wide = [[tf.cast(x, "float32") for x in side] for side in half]
    value = tf.function(lambda t, s: loss(t, s), jit_compile=True)(*half)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, loss(*wide), rtol=1e-4)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ReviewKD(16, name="mine"))
    )
    assert copy.get_config() == {"name": "mine", "mid_channels": 16}


def test_refuses_layers_that_do_not_fit(maps):
    loss = built(maps)
    with pytest.raises(ValueError, match="Received: 1 of the teacher's and 2 of the student's"):
        loss(maps[0][:1], maps[1])
    with pytest.raises(ValueError, match=r"student's feature of shape \(None, 5, 3\)"):
        ReviewKD().build([(None, 4, 4, 3)], [(None, 5, 3)])
    with pytest.raises(ValueError, match="ReviewKD has variables"):
        ReviewKD()(*maps)
    with pytest.raises(ValueError, match="`mid_channels`"):
        ReviewKD(mid_channels=-1)
