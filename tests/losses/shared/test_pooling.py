from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses.shared.pooling import adaptive_average_pool, pool_to_smaller


def pooled(x, sides):
    """Bin by bin, in NumPy."""
    for axis, m in enumerate(sides, start=1):
        n = x.shape[axis]
        bins = [slice(j * n // m, -(-(j + 1) * n // m)) for j in range(m)]
        x = np.stack(
            [x.take(range(b.start, b.stop), axis=axis).mean(axis) for b in bins], axis=axis
        )
    return x


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((2, 6, 4, 3), (3, 2)), ((2, 7, 5, 3), (3, 2)), ((2, 5, 3), (4,)), ((1, 3, 3, 1), (1, 1))],
)
def test_averages_over_the_bins(check, shape, sides):
    x = check.normal(*shape)
    np.testing.assert_allclose(adaptive_average_pool(x, sides), pooled(x, sides), rtol=1e-12)


def test_bins_overlap_where_the_side_does_not_divide():
    x = np.arange(5.0).reshape(1, 5, 1)
    np.testing.assert_allclose(adaptive_average_pool(x, (3,))[0, :, 0], [0.5, 2.0, 3.5])


def test_the_smaller_of_each_side_decides(check):
    first, second = pool_to_smaller(
        tf.constant(check.normal(2, 6, 3, 4)), tf.constant(check.normal(2, 2, 5, 7))
    )
    assert first.shape == (2, 2, 3, 4)
    assert second.shape == (2, 2, 3, 7)


def test_sizes_known_only_at_run_time(check):
    x, y = check.normal(2, 7, 6, 3), check.normal(2, 3, 8, 3)
    maps = [tf.TensorSpec((None, None, None, 3), x.dtype)] * 2
    run = tf.function(pool_to_smaller, input_signature=maps)
    first, second = run(x, y)
    np.testing.assert_allclose(first, pooled(x, (3, 6)), rtol=1e-12)
    np.testing.assert_allclose(second, pooled(y, (3, 6)), rtol=1e-12)


def test_maps_with_unequal_axes():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 4\)"):
        pool_to_smaller(tf.zeros((2, 3, 4)), tf.zeros((2, 4)))
    with pytest.raises(ValueError, match="1 sides"):
        adaptive_average_pool(tf.zeros((2, 3, 4)), (1, 1))
