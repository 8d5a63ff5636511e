from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import FSP
from keras_kd.losses.fsp import fsp_matrix


def matrix(x, y):
    """Entry by entry; `y` is half as large as `x`."""
    x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return np.einsum("bhwi,bhwj->bij", x, y) / (y.shape[1] * y.shape[2])


def formula(teacher, student):
    return ((matrix(*teacher) - matrix(*student)) ** 2).mean()


@pytest.fixture
def maps(check):
    teacher = [check.normal(3, 4, 4, 2), check.normal(3, 2, 2, 5)]
    student = [check.normal(3, 6, 6, 2), check.normal(3, 3, 3, 5)]
    return teacher, student


def test_value_and_gradient(maps):
    teacher, student = maps
    expected = formula(teacher, student)
    for dtype in ("float32", "float64"):
        inputs = [tf.constant(x, dtype) for x in student]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = FSP()([x.astype(dtype) for x in teacher], inputs)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert value.dtype == dtype
        # The derivative of the mean square by hand, for the second map.
        difference = matrix(*student) - matrix(*teacher)
        x = student[0]
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        gradient = 2 * np.einsum("bij,bhwi->bhwj", difference, x) / difference.size / 9
        np.testing.assert_allclose(
            tape.gradient(value, inputs[1]), gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max()
        )


def test_the_first_map_may_be_the_smaller(check):
    x, y = check.normal(2, 2, 2, 3), check.normal(2, 4, 4, 2)
    np.testing.assert_allclose(
        fsp_matrix(tf.constant(x), tf.constant(y)), matrix(y, x).transpose(0, 2, 1)
    )


def test_hard_features(maps):
    teacher, student = maps
    for scale in (0.0, 1000.0):
        inputs = [tf.constant(scale * x) for x in student]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = FSP()(teacher, inputs)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in tape.gradient(value, inputs))
    one = [[x[:1] for x in side] for side in maps]
    np.testing.assert_allclose(FSP()(*one), formula(*one))
    assert float(FSP()(teacher, teacher)) == 0.0


def test_sample_weights(maps):
    weights = np.array([0.0, 1.0, 2.0])
    each = [formula(*([x[i : i + 1] for x in side] for side in maps)) for i in range(3)]
    np.testing.assert_allclose(FSP()(*maps, sample_weight=weights), np.mean(weights * each))


def test_half_precision_and_compilation(maps):
    half = [[tf.cast(x, "float16") for x in side] for side in maps]
    wide = [[tf.cast(x, "float32") for x in side] for side in half]
    value = tf.function(lambda t, s: FSP()(t, s), jit_compile=True)(*half)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, FSP()(*wide), rtol=1e-5)


def test_refuses_what_is_not_two_layers(maps):
    with pytest.raises(ValueError, match=r"two layers of each model\. Received: 1"):
        FSP()(maps[0][:1], maps[1])
    with pytest.raises(TypeError, match="takes a list of tensors"):
        FSP()(maps[0][0], maps[1][0])


def test_refuses_unequal_channels(check):
    with pytest.raises(
        ValueError, match=r"equal numbers of channels.*\(2, 4, 4, 3\).*\(2, 4, 4, 2\)"
    ):
        FSP()([check.normal(2, 4, 4, 3)] * 2, [check.normal(2, 4, 4, 2)] * 2)


def test_masked_positions_are_zero_on_both_sides(check):
    mask = tf.constant([[True, True, False, False], [True, True, True, False]])
    half = tf.constant([[True, False], [True, True]])
    values = []
    for junk in (0.0, 100.0):
        sides = []
        for seed in (0, 1):
            maps = []
            for kept, channels in ((mask, 3), (half, 2)):
                x = np.random.default_rng(seed).normal(size=(*kept.shape, channels))
                x = tf.constant(np.where(kept[..., None], x, junk), "float32")
                if seed == 1:  # the student's masks count for the teacher, too
                    x._keras_mask = kept
                maps.append(x)
            sides.append(maps)
        values.append(float(FSP()(*sides)))
    assert values[0] == pytest.approx(values[1])
