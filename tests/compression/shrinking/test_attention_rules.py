import keras
import pytest
from keras import layers

import keras_kd as kd


def _model(attention, norm=True, **arguments):
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="embed")(inputs)
    y = layers.LayerNormalization(name="norm")(x) if norm else x
    x = layers.Add()([x, attention(y, y, **arguments)])
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"use_causal_mask": True}])
def test_multi_head_attention_loses_whole_heads(norm, arguments, assert_exact):
    attention = layers.MultiHeadAttention(4, 3, value_dim=2, name="attention")
    plan, small = assert_exact(_model(attention, norm, **arguments), smaller_than=0.9)
    smaller = small.get_layer("attention")
    width = 8 if norm else 4
    assert smaller.num_heads == 2
    assert smaller.query_dense.kernel.shape == (width, 2, 3)
    assert smaller.output_dense.kernel.shape == (2, 2, width)
    record = next(layer for layer in plan.layers if layer.name == "attention")
    assert record.heads == (4, 2)
    assert record.after == width


def test_cross_attention(assert_exact):
    query, memory = keras.Input((5, 8)), keras.Input((7, 6))
    q, m = layers.Dense(8, name="q")(query), layers.Dense(6, name="m")(memory)
    x = layers.MultiHeadAttention(2, 3, name="attention")(query=q, value=m, key=m)
    model = keras.Model([query, memory], layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))
    _, small = assert_exact(model)
    assert small.get_layer("attention").value_dense.kernel.shape == (3, 1, 3)


def test_grouped_query_attention_loses_a_key_head_with_its_queries(assert_exact):
    attention = layers.GroupQueryAttention(3, 6, 2, name="attention")
    _, small = assert_exact(_model(attention, norm=False))
    smaller = small.get_layer("attention")
    assert (smaller.num_query_heads, smaller.num_key_value_heads) == (3, 1)
    assert smaller._output_dense.kernel.shape == (3, 3, 4)


def test_heads_that_are_seen_outside_stay():
    inputs = keras.Input((5, 8))
    x, scores = layers.MultiHeadAttention(4, 3, name="attention")(
        inputs, inputs, return_attention_scores=True
    )
    model = keras.Model(inputs, [layers.Dense(2)(x), scores])
    plan = kd.shrink_plan(model, 0.5)
    record = next(layer for layer in plan.layers if layer.name == "attention")
    assert (record.heads, record.before, record.after) == ((4, 4), 8, 4)
    assert plan.apply()(keras.ops.ones((1, 5, 8)))[1].shape == (1, 4, 5, 5)


def test_excluded_attention_keeps_its_heads():
    attention = layers.MultiHeadAttention(4, 3, name="attention")
    model = _model(attention)
    plan = kd.shrink_plan(model, max_parameters=10**9, exclude="attention")
    assert next(x for x in plan.layers if x.name == "attention").heads == (4, 4)
    assert "'attention' is excluded by `exclude`" in str(plan)
