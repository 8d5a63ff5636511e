import numpy as np
import tensorflow as tf

from keras_kd.compression.tf_keras_bridge.kept_values import KeptValues, kept_values


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


def test_what_is_kept():
    kernels = [
        tf.Variable([[1.0, 2.0], [3.0, 0.0]]),
        tf.Variable([[1.0, 1.0], [2.0, 2.0]]),
        tf.Variable([1.0, 1.0, 0.0]),
        tf.Variable([[1.0, 2.0], [3.0, 4.0]]),
    ]
    found = [weights.variable.ref() for weights in kept_values(kernels, True, kernels[1:2])]
    assert found == [kernels[0].ref(), kernels[1].ref()]
    found = [weights.variable.ref() for weights in kept_values(kernels, False, kernels[1:2])]
    assert found == [kernels[1].ref()]
    found = [weights.variable.ref() for weights in kept_values(kernels, zeros=True)]
    assert found == [kernels[0].ref()], "equal values alone are no sign of clustering"
