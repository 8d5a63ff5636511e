from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses.shared.norms import l2_normalize, norm


def test_norm(check):
    x = check.normal(3, 4, 5)
    np.testing.assert_allclose(norm(x, (1, 2)), np.sqrt((x**2).sum((1, 2))))


def test_normalized_vectors_have_length_one_down_to_the_floor(check):
    x = check.normal(3, 4)
    np.testing.assert_allclose(
        l2_normalize(x), x / np.sqrt((x**2).sum(-1, keepdims=True)), rtol=1e-12
    )
    tiny = np.array([[1e-13, 0.0]])
    np.testing.assert_allclose(l2_normalize(tiny), [[0.1, 0.0]])
    np.testing.assert_allclose(l2_normalize(np.array([[3.0, 4.0]]), offset=5.0), [[0.3, 0.4]])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_zero_vector_has_a_gradient_of_zero(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(l2_normalize(x) * [[1.0, 2.0]]) + tf.reduce_sum(norm(x))
        return tape.gradient(value, x)

    zero, other = gradient(tf.constant([[0.0, 0.0], [3.0, 4.0]])).numpy()
    np.testing.assert_array_equal(zero, [0.0, 0.0])
    assert np.isfinite(other).all()
    assert np.abs(other).max() > 0.1
