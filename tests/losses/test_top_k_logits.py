from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses.top_k_logits import top_k_logits


def formula(logits, k, temperature):
    """In float64, by sorting."""
    logits = logits.astype("float64")
    order = np.argsort(-logits, axis=-1, kind="stable")
    values = np.take_along_axis(logits, order, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        others = values[..., k:] / temperature
        if k == logits.shape[-1]:
            rest = np.full(logits.shape[:-1], -np.inf)
        else:
            top = others.max(-1, keepdims=True)
            rest = (top + np.log(np.exp(others - top).sum(-1, keepdims=True)))[..., 0]
    return values[..., :k], order[..., :k], rest


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 11), (2, 3, 11)])
def test_values(scale, k, temperature, shape):
    logits = (scale * np.random.default_rng(0).normal(size=shape)).astype("float32")
    kept = top_k_logits(logits, k, temperature)
    values, indices, rest = formula(logits, k, temperature)
    np.testing.assert_array_equal(kept.values, values.astype("float32"))
    np.testing.assert_array_equal(kept.indices, indices)
    np.testing.assert_allclose(kept.rest, rest, rtol=1e-6)
    np.testing.assert_array_equal(kept.temperature, np.full(shape[0], temperature, "float32"))
    assert {x.dtype for x in (kept.values, kept.rest, kept.temperature)} == {tf.float32}
    assert kept.indices.dtype == tf.int32


def test_a_tiny_rest_is_not_lost_beside_a_large_logit():
    kept = top_k_logits([[1000.0, -1000.0, -1000.0, -1000.0]], 1, 1.0)
    np.testing.assert_allclose(kept.rest, [-1000.0 + np.log(3.0)], rtol=1e-6)


def test_equal_logits_are_each_counted_once():
    kept = top_k_logits(np.zeros((2, 6)), 2, 3.0)
    np.testing.assert_allclose(kept.rest, np.log([4.0, 4.0]), rtol=1e-6)
    assert all(len(set(row)) == 2 for row in kept.indices.numpy())


def test_classes_that_are_ruled_out_have_no_mass():
    kept = top_k_logits([[1.0, 0.0, -np.inf, -np.inf]], 2, 1.0)
    np.testing.assert_array_equal(kept.rest, [-np.inf])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened(dtype):
    logits = tf.cast(np.random.default_rng(0).normal(size=(4, 9)), dtype)
    kept = top_k_logits(logits, 3, 2.0)
    _, _, rest = formula(tf.cast(logits, "float64").numpy(), 3, 2.0)
    assert kept.values.dtype == tf.float32
    np.testing.assert_allclose(kept.rest, rest, rtol=1e-6)


def test_in_a_graph_with_batches_of_any_size():
    @tf.function(input_signature=[tf.TensorSpec((None, None, 7))])
    def kept(logits):
        return top_k_logits(logits, 2, 4.0)

    for shape in ((3, 2, 7), (1, 5, 7), (0, 5, 7)):
        logits = np.random.default_rng(0).normal(size=shape).astype("float32")
        for graph, eager in zip(kept(logits), top_k_logits(logits, 2, 4.0), strict=True):
            np.testing.assert_allclose(graph, eager, rtol=1e-6)
            assert graph.shape[0] == shape[0]


@pytest.mark.parametrize("k", [0, 6, -1, 2.0, True, None])
def test_refuses_a_wrong_k(k):
    with pytest.raises(ValueError, match="`k` must be a whole number"):
        top_k_logits(np.zeros((2, 5)), k, 1.0)


def test_refuses_a_wrong_temperature_and_shape():
    with pytest.raises(ValueError, match="`temperature` must be a number above 0"):
        top_k_logits(np.zeros((2, 5)), 2, 0.0)
    with pytest.raises(ValueError, match=r"Received: shape \(5,\)"):
        top_k_logits(np.zeros(5), 2, 1.0)
