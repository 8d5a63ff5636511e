import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd
from keras_kd.models.costs import operation_macs
from keras_kd.models.graph import calls_of


def _macs(inputs, outputs):
    return kd.model_cost(keras.Model(inputs, outputs)).macs


def test_dense_and_convolutions():
    x = keras.Input((8, 6, 3))
    assert _macs(x, layers.Conv2D(5, (3, 2), padding="same")(x)) == 8 * 6 * 3 * 2 * 3 * 5
    assert _macs(x, layers.Conv2D(6, 3, strides=2, groups=3)(x)) == 3 * 2 * 9 * 1 * 6
    assert _macs(x, layers.DepthwiseConv2D(3, depth_multiplier=2)(x)) == 6 * 4 * 9 * 3 * 2
    assert _macs(x, layers.SeparableConv2D(5, 3)(x)) == 6 * 4 * (9 * 3 + 3 * 5)
    assert _macs(x, layers.Conv2DTranspose(5, 2, strides=2)(x)) == 8 * 6 * 4 * 3 * 5
    assert _macs(x, layers.Dense(7)(x)) == 8 * 6 * 3 * 7
    assert _macs(x, layers.BatchNormalization()(ops.relu(x))) == 0
    first = keras.Input((3, 8, 6))
    convolution = layers.Conv2D(5, 3, padding="same", data_format="channels_first")
    assert _macs(first, convolution(first)) == 8 * 6 * 9 * 3 * 5


def test_sequences_attention_and_products():
    x, y = keras.Input((5, 8)), keras.Input((7, 6))
    attention = layers.MultiHeadAttention(2, 3, value_dim=4)
    projections = 5 * 8 * 6 + 7 * 6 * 6 + 7 * 6 * 8 + 5 * 8 * 8
    assert _macs([x, y], attention(x, y)) == projections + 2 * 5 * 7 * (3 + 4)
    grouped = layers.GroupQueryAttention(3, 4, 2)
    projections = 5 * 8 * 12 + 2 * 5 * 8 * 6 + 5 * 12 * 8
    assert _macs(x, grouped(x, x)) == projections + 4 * 5 * 5 * (3 + 3)
    assert _macs([x, y], layers.Attention()([y, y])) == 2 * 7 * 7 * 6
    assert _macs([x, y], layers.AdditiveAttention(use_scale=False)([y, y])) == 2 * 7 * 7 * 6
    assert _macs([x, y], layers.Attention()([x, x, layers.Dense(8)(x)])) == 2 * 5 * 5 * 8 + 5 * 64
    assert _macs(x, layers.Dot(2)([x, x])) == _macs(x, layers.Dot((2, 2))([x, x])) == 5 * 5 * 8
    assert _macs(x, layers.LSTM(4)(x)) == 5 * (8 * 16 + 4 * 16)
    assert _macs(x, layers.EinsumDense("abc,cd->abd", (5, 3))(x)) == 5 * 8 * 3
    assert _macs(x, layers.EinsumDense("...c,cd->...d", 3)(x)) == 5 * 8 * 3
    assert _macs(x, ops.matmul(x, ops.transpose(x, (0, 2, 1)))) == 5 * 5 * 8
    assert _macs(x, ops.einsum("abc,adc->abd", x, x)) == 5 * 5 * 8


def test_arguments_are_read_by_their_names():
    q, c, mask = keras.Input((10, 16)), keras.Input((50, 16)), keras.Input((10, 50), dtype="bool")
    attention = layers.MultiHeadAttention(2, 8)
    expected = 4 * 10 * 16 * 16 + 2 * (50 - 10) * 16 * 16 + 2 * 2 * 10 * 50 * 8
    for given, named in [
        ((q, c), {}),
        ((q,), {"value": c, "key": c}),
        ((), {"key": c, "query": q, "value": c}),
        ((q,), {"attention_mask": mask, "value": c}),
        ((q, c), {"attention_mask": mask}),
    ]:
        assert _macs([q, c, mask], attention(*given, **named)) == expected
    alone = layers.MultiHeadAttention(2, 8)
    alone(q, attention_mask=mask, value=c)
    weights = {id(weight): tuple(weight.shape) for weight in alone.weights}
    shapes = [(None, 10, 16), (None, 10, 50), (None, 50, 16)]
    (node,) = calls_of(alone)
    assert operation_macs(node, shapes, [(None, 10, 16)], weights) == expected
    dot = layers.Attention()
    of_queries, of_keys = keras.Input((10,), dtype="bool"), keras.Input((50,), dtype="bool")
    masks = [of_queries, of_keys]
    assert _macs([q, c, *masks], dot([q, c], mask=masks)) == 2 * 10 * 50 * 16
    lstm, h = layers.LSTM(4), keras.Input((4,))
    assert _macs([q, h], lstm(initial_state=[h, h], sequences=q)) == 10 * (16 * 16 + 4 * 16)


def test_products_with_constants():
    x = keras.Input((10, 16))
    right, left = np.ones((16, 4), "float32"), np.ones((5, 10), "float32")
    for product in [
        ops.matmul(x, right),
        ops.einsum("bij,jk->bik", x, right),
        ops.einsum("jk,bij->bik", right, x),
        ops.einsum("...ij,jk->...ik", x, right),
        ops.einsum("b...j,jk->b...k", x, right),
        ops.einsum("...j,jk", x, right),
        ops.dot(x, right),
        ops.inner(x, right.T),
        ops.tensordot(x, right, 1),
        ops.tensordot(x, right, [[2], [0]]),
        ops.matmul(x, keras.Variable(right)),
    ]:
        assert _macs(x, product) == 10 * 16 * 4
    assert _macs(x, ops.matmul(left, x)) == 5 * 10 * 16
    assert _macs(x, ops.einsum("ij,bjk->bik", left, x)) == 5 * 10 * 16
    assert _macs(x, ops.tensordot(x, left, [[1], [1]])) == 10 * 16 * 5
    assert _macs(x, ops.tensordot(x, np.ones((10, 16)), 2)) == 10 * 16
    assert _macs(x, ops.einsum("bij,bkj->bik", x, x)) == 10 * 10 * 16
    assert _macs(x, ops.dot(x, 2.0)) == 0


def test_other_operations_that_multiply_are_named():
    x = keras.Input((8, 8, 3))
    y = ops.conv(x, np.ones((3, 3, 3, 4), "float32"))
    q = ops.reshape(y, (-1, 36, 2, 2))
    cost = kd.model_cost(keras.Model(x, ops.relu(ops.dot_product_attention(q, q, q))))
    assert [name.rstrip("_0123456789") for name in cost.not_counted] == [
        "conv",
        "dot_product_attention",
    ]


def test_equals_what_tensorflow_counts():
    x = keras.Input((16, 16, 3))
    y = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    y = layers.DepthwiseConv2D(3, use_bias=False)(y)
    y = layers.Dense(5, use_bias=False)(layers.Flatten()(y))
    model = keras.Model(x, y)
    import tensorflow as tf
    from tensorflow.python.profiler.model_analyzer import profile
    from tensorflow.python.profiler.option_builder import ProfileOptionBuilder

    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, 16, 16, 3)))
    options = ProfileOptionBuilder(ProfileOptionBuilder.float_operation()).with_empty_output()
    flops = profile(function.graph, options=options.build()).total_float_ops
    assert kd.model_cost(model).flops == flops


def test_nested_shared_and_unknown_layers():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")], name="inner")
    x = keras.Input((4,))
    shared = layers.Dense(4, name="shared")

    class Custom(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(3,), name="w")

        def call(self, x):
            return x * self.w

    cost = kd.model_cost(keras.Model(x, Custom(name="own")(inner(shared(shared(x))))))
    assert [(c.name, c.parameters, c.macs) for c in cost.layers] == [
        ("shared", 20, 32),
        ("inner/a", 15, 12),
        ("own", 3, 0),
    ]
    assert (cost.parameters, cost.macs, cost.flops) == (38, 44, 88)
    assert cost.not_counted == ("own",)


def test_published_count():
    # Sandler et al., MobileNetV2, 2018, arXiv:1801.04381, table 4: 300 million.
    cost = kd.model_cost(keras.applications.MobileNetV2(weights=None))
    assert cost.macs == 300_774_272
    assert cost.parameters == 3_538_984


def test_unknown_sizes_and_subclassed_models_are_refused():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.Conv2D(4, 3, name="conv")(x))
    with pytest.raises(ValueError, match="'conv' depend on a size that is not known"):
        kd.model_cost(model)

    class Net(keras.Model):
        def call(self, x):
            return x

    net = Net()
    net(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="a subclassed model"):
        kd.model_cost(net)
