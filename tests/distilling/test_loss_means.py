from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_kd.distilling.loss_means import LossMeans


def test_means_are_weighted_by_the_batches():
    means = LossMeans(["a", "b"])
    means.update_state({"a": 1.0, "b": 10.0}, sample_weight=3)
    means.update_state({"a": tf.constant(5.0, tf.float64), "b": 20.0, "other": 7.0}, 1)
    result = means.result()
    assert list(result) == ["a", "b"]
    np.testing.assert_allclose([result["a"], result["b"]], [2.0, 12.5])


def test_what_is_left_out_does_not_count():
    means = LossMeans(["a", "b"])
    means.update_state({"a": 4.0}, 2)
    means.update_state({"a": 6.0, "b": 3.0}, 2)
    result = means.result()
    np.testing.assert_allclose([result["a"], result["b"]], [5.0, 3.0])


def test_it_starts_anew():
    means = LossMeans(["a"])
    means.update_state({"a": 4.0}, 2)
    means.reset_state()
    assert float(means.result()["a"]) == 0.0
    means.update_state({"a": 1.0}, 2)
    assert float(means.result()["a"]) == 1.0
