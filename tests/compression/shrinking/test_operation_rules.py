import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd


def _model(function, width=8):
    inputs = keras.Input((6, 6, 3))
    x = function(layers.Conv2D(width, 3, name="first")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.relu(x) * 2.0 + 1.0 - 1.0,
        lambda x: ops.transpose(x, (0, 3, 1, 2)),
        lambda x: ops.swapaxes(ops.moveaxis(x, -1, 1), 1, 2),
        lambda x: ops.reshape(x, (-1, 16, 8)),
        lambda x: ops.mean(x, axis=(1, 2)),
        lambda x: ops.max(x, axis=1, keepdims=True),
        lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
        lambda x: ops.concatenate([x, x * x], axis=-1),
        lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]]),
        lambda x: ops.softmax(x, axis=1) * x,
        lambda x: x[:, 1:, ..., 2:7],
        lambda x: x[:, 0],
        lambda x: ops.silu(ops.max_pool(x, 2)),
        lambda x: ops.sum(ops.einsum("bhwc,bhwd->bcd", x, x), axis=1),
        lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
        lambda x: ops.multiply(*ops.split(x, 2, axis=-1)),
        lambda x: ops.split(x, [3, 5], axis=-1)[2],
    ],
)
def test_channels_pass(function, assert_exact):
    _, small = assert_exact(_model(function))
    assert small.get_layer("first").filters < 8


def test_sum_over_channels(assert_exact):
    _, small = assert_exact(_model(lambda x: ops.sum(x, axis=-1)), smaller_than=0.95)
    assert small.get_layer("first").filters == 4


def test_parts_of_a_split_shrink_by_themselves(assert_exact):
    def function(x):
        first, second = ops.split(x, 2, axis=-1)
        return ops.concatenate([ops.relu(first), layers.Conv2D(3, 1, name="c")(second)], axis=-1)

    _, small = assert_exact(_model(function), scope="global", min_channels=2)
    assert small.get_layer("c").kernel.shape[2] >= 2


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: ops.mean(x, axis=-1), "takes them together"),
        (lambda x: ops.flip(x, axis=-1), "enters? "),
        (lambda x: ops.cumsum(x, axis=-1), "enters? "),
        (lambda x: x[..., ::2], "picks single ones"),
        (lambda x: x + np.arange(8, dtype="float32"), "meets a tensor of fixed size"),
        (lambda x: ops.log_softmax(x), "divides by a sum"),
        (lambda x: ops.reshape(x, (-1, 4)), "moves this axis into another"),
    ],
)
def test_what_is_not_understood_keeps_the_channels(function, reason):
    with pytest.raises(ValueError, match=rf"finds no channel to remove.*{reason}"):
        kd.shrink(_model(function), 0.5)


def test_attention_written_by_hand(assert_exact):
    inputs = keras.Input((5, 8))
    q, k, v = (layers.Dense(12, name=name)(inputs) for name in "qkv")
    q, k, v = (ops.transpose(ops.reshape(x, (-1, 5, 3, 4)), (0, 2, 1, 3)) for x in (q, k, v))
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, 2, 3)) / 2.0)
    x = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 5, 12))
    x = layers.Dense(6, name="o")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    _, small = assert_exact(model)
    assert small.get_layer("q").units == small.get_layer("v").units == 6
    assert small.get_layer("o").kernel.shape == (6, 3)


def test_whether_any_or_all_are_true():
    def function(ask, of):
        return lambda x: ops.multiply(x, ops.cast(ask(of(x), axis=-1, keepdims=True), "float32"))

    for ask in (ops.any, ops.all):
        model = _model(function(ask, ops.ones_like))
        assert kd.shrink(model, 0.5).get_layer("first").filters == 4
        with pytest.raises(ValueError, match="finds no channel to remove"):
            kd.shrink(_model(function(ask, lambda x: ops.logical_not(x))), 0.5)
