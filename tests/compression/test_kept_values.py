import numpy as np
import pytest
import tensorflow as tf

from keras_kd.compression.kept_values import KeptValues, has_equal_values, kept_values


def test_gradients_are_means_over_equal_weights():
    values = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 1.0]], "float32")
    gradient = np.array([[3.0, 5.0, 7.0], [1.0, 0.0, -9.0]], "float32")
    both = KeptValues(tf.Variable(values), zeros=True, equal=True)
    np.testing.assert_allclose(both.project(gradient), [[-2, 3, 0], [3, -2, -2]])
    zeros = KeptValues(tf.Variable(values), zeros=True, equal=False)
    np.testing.assert_allclose(zeros.project(gradient), [[3, 5, 0], [1, 0, -9]])
    equal = KeptValues(tf.Variable(values), zeros=False, equal=True)
    np.testing.assert_allclose(equal.project(gradient), [[-2, 3, 7], [3, -2, -2]])


def test_sparse_gradients():
    kept = KeptValues(tf.Variable([[1.0, 1.0], [0.0, 2.0]]), zeros=True, equal=True)
    slices = tf.IndexedSlices(tf.constant([[4.0, 6.0]]), tf.constant([0]), tf.constant([2, 2]))
    np.testing.assert_allclose(kept.project(slices), [[5, 5], [0, 0]])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda g: g.normal(size=(40, 40)), False),
        (lambda g: g.normal(size=(40, 40)) * (g.random((40, 40)) > 0.5), False),
        (lambda g: g.integers(1, 9, (40, 40)), True),
        (lambda g: g.integers(-2, 3, (40, 40)), True),
        (lambda g: np.append(g.normal(size=16), 0.3).repeat([1] * 16 + [2]).reshape(3, 6), True),
        (lambda g: np.full((3, 3), 0.5), False),
        (lambda g: np.zeros((3, 3)), False),
    ],
)
def test_clustered_kernels_are_told_from_others(make, expected):
    kernel = np.asarray(make(np.random.default_rng(0)), "float32")
    assert has_equal_values(kernel) is expected


def test_what_is_kept():
    kernels = [
        tf.Variable([[1.0, 2.0], [3.0, 0.0]]),
        tf.Variable([[1.0, 1.0], [2.0, 2.0]]),
        tf.Variable([1.0, 1.0, 0.0]),
        tf.Variable([[1.0, 2.0], [3.0, 4.0]]),
    ]
    found = [weights.variable.ref() for weights in kept_values(kernels, zeros=True)]
    assert found == [kernels[0].ref(), kernels[1].ref()]
    found = [weights.variable.ref() for weights in kept_values(kernels, zeros=False)]
    assert found == [kernels[1].ref()]
