import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.shrinking.blocks import find_blocks
from keras_kd.models.keras_2_masks import MASKED_AS_IN_KERAS_2


def _model(*between):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    for layer in between:
        x = layer(x)
    x = layers.Conv2D(6, 1, activation="relu", name="second")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.BatchNormalization(scale=False),
        lambda: (
            layers.BatchNormalization(center=False, renorm=True)
            if "renorm" in layers.BatchNormalization.__init__.__code__.co_varnames
            else layers.BatchNormalization(center=False)
        ),
        lambda: layers.GroupNormalization(4, name="norm"),
        lambda: layers.UnitNormalization(),
        lambda: layers.PReLU(),
        lambda: layers.PReLU(shared_axes=[1, 2]),
        lambda: layers.PReLU(shared_axes=[1, 2, 3]),
    ],
)
def test_normalization(make, assert_exact):
    _, small = assert_exact(_model(make()))
    assert small.get_layer("first").filters == 4


def test_group_normalization_loses_whole_groups(assert_exact):
    model = _model(layers.GroupNormalization(4, name="norm"))
    _, small = assert_exact(model)
    assert small.get_layer("norm").groups == 2
    kept = np.isin(model.get_layer("first").bias, small.get_layer("first").bias).reshape(4, 2)
    assert (kept[:, 0] == kept[:, 1]).all()


def test_rms_normalization_makes_up_for_the_shorter_mean():
    model = _model(layers.RMSNormalization(epsilon=0.1, name="norm"))
    kernel, bias = (np.array(w) for w in model.get_layer("first").weights)
    kernel[..., ::2] = 0
    bias[:] = [0, 1, 0, 2, 0, 3, 0, 4]
    model.get_layer("first").set_weights([kernel, bias])
    model.get_layer("second").set_weights(
        [np.random.default_rng(0).normal(size=(1, 1, 8, 6)), np.ones(6)]
    )
    small = kd.shrink(model, 0.5, exclude="second", reduction="sum")
    np.testing.assert_array_equal(small.get_layer("first").bias, [1, 2, 3, 4])
    assert small.get_layer("norm").epsilon == pytest.approx(0.2)
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)


def test_layer_normalization_keeps_its_channels_unless_asked(assert_exact):
    model = _model(layers.LayerNormalization(name="norm"))
    plan, small = assert_exact(model, smaller_than=0.99)
    assert small.get_layer("first").filters == 8
    assert small.get_layer("second").filters == 3
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert "takes its mean over these channels (see `layer_norm`)" in reasons["first"]
    small = kd.shrink(model, 0.5, layer_norm=True)
    assert small.get_layer("first").filters == 4
    assert small.get_layer("norm").gamma.shape == (4,)


OF_ONE_INPUT = {
    "Identity": {},
    "MultiHeadAttention": {"num_heads": 4, "key_dim": 3},
    "Normalization": {"mean": 0.5, "variance": 2.0},
    "Rescaling": {"scale": 2.0, "offset": 1.0},
    "TimeDistributed": {"layer": layers.Dense(8)},
}


def _masked(kind, mask_zero=True):
    """A model with a layer that is given one tensor with a mask, and one without."""
    ids, other = keras.Input((5,), dtype="int32"), keras.Input((5, 3))
    words = layers.Embedding(10, 8, mask_zero=mask_zero, name="words")(ids)
    rest = layers.Dense(8, activation="relu", name="rest")(other)
    name = kind.__name__.removesuffix("OfKeras2")
    layer = kind(name="layer", **OF_ONE_INPUT.get(name, {}))
    if name == "MultiHeadAttention":
        x = layer(rest, words)
    else:
        x = layer(words if name in OF_ONE_INPUT else [words, rest])
    x = keras.ops.sum(x, axis=-1, keepdims=True) if name == "Rescaling" else x
    pool = layers.GlobalAveragePooling1D()
    ends = [layers.Dense(2, name="out")(pool(x)), pool(layers.Dense(2, name="beside")(rest))]
    return keras.Model([ids, other], layers.add(ends))


@pytest.mark.parametrize("name", MASKED_AS_IN_KERAS_2)
def test_layers_with_masks_of_keras_2_lose_channels_as_keras_s_own(name, assert_exact):
    model = _masked(MASKED_AS_IN_KERAS_2[name])
    plan, _ = assert_exact(model, smaller_than=0.9)
    expected = kd.shrink_plan(_masked(getattr(layers, name), mask_zero=False), 0.5)
    assert [(x.name, x.after) for x in plan.layers] == [(x.name, x.after) for x in expected.layers]


def test_a_block_that_ends_in_a_sum_with_masks_of_keras_2_is_a_block():
    x = layers.Embedding(10, 8, mask_zero=True)(ids := keras.Input((5,), dtype="int32"))
    inner = keras.Model(ids, MASKED_AS_IN_KERAS_2["Add"](name="sum")([x, layers.Dense(8)(x)]))
    assert [block.name for block in find_blocks(inner)] == ["sum"]
    assert find_blocks(_masked(MASKED_AS_IN_KERAS_2["MultiHeadAttention"])) == []
