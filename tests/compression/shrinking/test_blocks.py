import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.shrinking.blocks import choose_blocks, find_blocks


class TransformerLayer(layers.Layer):
    """A layer of layers, as KerasHub's are."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(12, activation="relu"), layers.Dense(6)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 12))

    def call(self, x):
        return x + self.down(self.up(x))


def _residual(depth=3, nested=False):
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    for i in range(depth):
        y = layers.Dense(8, activation="relu", name=f"block{i}_1")(x)
        x = layers.Add(name=f"block{i}_add")([layers.Dense(6, name=f"block{i}_2")(y), x])
    return keras.Model(inputs, x if nested else layers.Dense(2, name="out")(x), name="net")


def test_residual_blocks_are_found_and_dropped():
    model = _residual()
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == ["block0_add", "block1_add", "block2_add"]
    assert {layer.name for layer in blocks[1].layers} == {"block1_1", "block1_2"}
    small = kd.shrink(model, drop="block1_add")
    names = [layer.name for layer in small.layers if layer.weights]
    assert names == ["stem", "block0_1", "block0_2", "block2_1", "block2_2", "out"]
    # What is left is the model whose dropped branch adds zero.
    for weight in model.get_layer("block1_2").weights:
        weight.assign(np.zeros(weight.shape))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), atol=1e-6)
    assert [b.name for b in choose_blocks(model, ["block[02]*"])] == ["block0_add", "block2_add"]


def test_a_branch_that_is_used_elsewhere_is_no_block():
    inputs = keras.Input((6,))
    y = layers.Dense(6, activation="relu", name="y")(inputs)
    x = layers.Add(name="add")([inputs, layers.Dense(6, name="z")(y)])
    assert find_blocks(keras.Model(inputs, [x, y])) == []
    assert [b.name for b in find_blocks(keras.Model(inputs, x))] == ["add"]
    # Two branches side by side have no shortcut.
    x = layers.Add()([layers.Dense(6)(inputs), layers.Dense(6)(inputs)])
    assert find_blocks(keras.Model(inputs, x)) == []


def test_blocks_that_normalize_after_the_sum_go_with_their_normalization():
    inputs = keras.Input((5, 6))
    x = layers.LayerNormalization(name="first")(layers.Dense(6)(inputs))
    for i in range(2):
        y = layers.Dense(6, name=f"y{i}")(x)
        x = layers.LayerNormalization(name=f"norm{i}")(layers.Add(name=f"add{i}")([x, y]))
    model = keras.Model(inputs, layers.Dense(2)(x))
    small = kd.shrink(model, drop=["add0"])
    assert {"y0", "add0", "norm0"}.isdisjoint({layer.name for layer in small.layers})
    assert {"y1", "add1", "norm1"} <= {layer.name for layer in small.layers}


def test_layers_of_layers_nested_models_and_single_layers_can_be_dropped():
    inputs = keras.Input((5, 6))
    x = TransformerLayer(name="encoder_0")(inputs)
    x = TransformerLayer(name="encoder_1")(x)
    inner = _residual(1, nested=True)
    x = inner(layers.Dense(6, name="same")(layers.GlobalAveragePooling1D()(x)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    found = [block.name for block in find_blocks(model)]
    assert found == ["encoder_0", "encoder_1", "net/block0_add"]
    small = kd.shrink(model, drop=["encoder_*", "net", "same"])
    assert small.count_params() == 6 * 2 + 2
    small = kd.shrink(model, drop="net/block0_add")
    assert [layer.name for layer in small.get_layer("net").layers][1:] == ["stem"]
    plan = kd.shrink_plan(model, depth=0.5)
    assert len(plan.dropped) == 2
    assert plan.parameters[1] == plan.apply().count_params()


def test_the_least_important_blocks_go():
    model = _residual()
    model.get_layer("block2_1").kernel.assign(model.get_layer("block2_1").kernel * 0.01)
    model.get_layer("block0_1").kernel.assign(model.get_layer("block0_1").kernel * 0.1)
    assert kd.shrink_plan(model, depth=0.3).dropped == ("block2_add",)
    assert kd.shrink_plan(model, depth=0.6).dropped == ("block2_add", "block0_add")
    assert kd.shrink_plan(model, depth=0.3, exclude="block2_1").dropped == ("block0_add",)
    # The last layer of block 1 is silent: the loss does not depend on the block.
    for weight in model.get_layer("block1_2").weights:
        weight.assign(np.zeros(weight.shape))
    data = (np.random.default_rng(0).normal(size=(32, 6)).astype("float32"), np.arange(32) % 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plan = kd.shrink_plan(model, depth=0.3, importance="taylor", data=data, loss=loss)
    assert plan.dropped == ("block1_add",)


def test_channels_go_from_what_is_left():
    plan = kd.shrink_plan(_residual(), 0.5, drop="block1_add")
    small = plan.apply()
    assert small.count_params() == plan.parameters[1]
    assert small.get_layer("stem").units == 3
    assert "dropped blocks: block1_add" in str(plan)


def test_what_cannot_be_dropped_is_refused():
    with pytest.raises(ValueError, match=r"`drop` names 'block0_1'.*Its blocks are: 'block0_add'"):
        kd.shrink(_residual(), drop="block0_1")
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, layers.Dense(2)(inputs), name="plain")
    with pytest.raises(ValueError, match=r"`depth`=0\.5 of the 0 blocks of model 'plain'"):
        kd.shrink(plain, depth=0.5)
