import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.models.kept import Kept, groups_of, zeros_of


def kernel(values):
    return keras.Variable(np.asarray(values, "float32"))


def test_zeros_stay_zero_and_learn_nothing():
    variable = kernel([[0.0, 1.0], [2.0, 0.0]])
    kept = Kept(zeros_of(variable))
    variable.assign([[5.0, 1.5], [2.5, -4.0]])
    with tf.GradientTape() as tape:
        values = kept(variable)
        loss = tf.reduce_sum(values)
    np.testing.assert_array_equal(values, [[0.0, 1.5], [2.5, 0.0]])
    np.testing.assert_array_equal(tape.gradient(loss, variable.value), [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("per_channel", [False, True])
def test_shared_values_stay_shared(per_channel):
    variable = kernel([[1.0, 1.0], [1.0, 2.0], [3.0, 2.0]])
    groups = groups_of(variable, per_channel)
    assert len(np.unique(groups)) == (4 if per_channel else 3)
    kept = Kept(groups=groups)
    variable.assign([[1.0, 4.0], [3.0, 2.0], [7.0, 4.0]])
    expected = (
        [[2.0, 4.0], [2.0, 3.0], [7.0, 3.0]]
        if per_channel
        else [[8 / 3, 8 / 3], [8 / 3, 3.0], [7.0, 3.0]]
    )
    np.testing.assert_allclose(kept(variable), expected, rtol=1e-6)


def test_a_convolution_shares_within_a_filter():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 2.0], (3, 3, 2, 4))
    variable = kernel(values)
    kept = Kept(zeros_of(variable), groups_of(variable, True))
    variable.assign(values + np.random.default_rng(1).normal(size=values.shape))
    result = np.asarray(kept(variable))
    assert (result[values == 0] == 0).all()
    for i in range(4):
        assert len(np.unique(result[..., i])) == len(np.unique(values[..., i]))


def test_nothing_is_kept_of_a_kernel_without_zeros():
    assert zeros_of(kernel([[1.0, 2.0]])) is None
    assert not Kept() and Kept(np.ones(1)) and Kept(groups=np.zeros(1))
