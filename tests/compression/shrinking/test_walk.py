"""A sum over channels may only lose those that give zeros to it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd


def _shrunk(build, activation):
    """Shrink a model whose units at even places have no weights; all outputs must stay."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    inputs = keras.Input((4, 8))
    units = layers.Dense(8, activation=activation, name="units")
    model = keras.Model(inputs, layers.Dense(2, name="out")(build(units(inputs))))
    kernel, bias = generator.normal(size=(8, 8)), generator.normal(size=8)
    kernel[:, ::2], bias[::2] = 0.0, 0.0
    units.set_weights([kernel, bias])
    x = generator.normal(size=(16, 4, 8)).astype("float32")
    small = kd.shrink(model, 0.5, exclude=_is_spared)
    np.testing.assert_allclose(small(x), model(x), atol=2e-5)
    return small.get_layer("units").units


def _is_spared(layer):
    return layer.name.startswith("spare")


def _spare(x):
    """Add something else that can shrink: a model without is refused."""
    hidden = layers.Dense(6, name="hidden", kernel_initializer="zeros")(x)
    return layers.Concatenate(name="both")([x, hidden])


def _nested(function):
    def build(x):
        inner = keras.Input(x.shape[1:])
        return keras.Model(inner, function(inner), name="inner")(x)

    return build


SUMS = {
    "sum": lambda x: ops.sum(x, axis=-1, keepdims=True),
    "sum of all": lambda x: ops.sum(x, axis=(1, 2))[:, None],
    "behind a normalization without scale": lambda x: ops.sum(
        layers.BatchNormalization(scale=False)(x), axis=-1, keepdims=True
    ),
    "behind a change of shape": lambda x: ops.sum(
        layers.Permute((2, 1))(layers.Dropout(0.5)(x)), axis=1
    )[:, None],
    "behind a concatenation": lambda x: ops.sum(ops.concatenate([x, x], -1), -1, keepdims=True),
    "in a nested model": _nested(lambda x: ops.sum(x, axis=-1, keepdims=True)),
    "behind a nested model": lambda x: ops.sum(
        _nested(lambda x: x * 2.0)(x), axis=-1, keepdims=True
    ),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "einsum": lambda x: ops.einsum("bth,bsh->bts", x, x),
    "EinsumDense that sums its input alone": lambda x: layers.EinsumDense(
        "abc,bd->ad", (3,), name="spare_steps"
    )(x),
    "mean square": lambda x: layers.RMSNormalization()(x),
    "unit norm": lambda x: layers.UnitNormalization()(x),
    "dense over the other axis": lambda x: ops.sum(
        layers.Dense(3, use_bias=False, name="spare_steps")(layers.Permute((2, 1))(x)), axis=1
    )[:, None],
}
OTHERS = {
    "plus one": lambda x: ops.sum(x + 1.0, axis=-1, keepdims=True),
    "exp": lambda x: ops.sum(ops.exp(x), axis=-1, keepdims=True),
    "clip": lambda x: ops.sum(ops.clip(x, 0.25, 2.0), axis=-1, keepdims=True),
    "threshold": lambda x: ops.sum(
        layers.ReLU(negative_slope=0.5, threshold=1.0)(x), axis=-1, keepdims=True
    ),
    "maximum": lambda x: ops.sum(
        ops.maximum(x, ops.mean(x, axis=-1, keepdims=True)), axis=-1, keepdims=True
    ),
    "softmax": lambda x: layers.Softmax()(x),
    "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "LayerNormalization": lambda x: layers.LayerNormalization()(x),
    "Dot": lambda x: layers.Dot(axes=-1)([x, x]),
    "time steps of a GRU": lambda x: layers.GRU(3, name="spare_steps")(layers.Permute((2, 1))(x))[
        :, None
    ],
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "tanh"])
def test_channels_that_are_summed_stay_unless_they_give_zeros(name, activation):
    units = _shrunk(lambda x: _spare(SUMS[name](x)), activation)
    assert units == (4 if activation == "tanh" else 8)


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_sees_all_channels(name):
    assert _shrunk(lambda x: _spare(OTHERS[name](x)), "tanh") == 8


def test_what_takes_them_to_zero_again_lets_them_go():
    def build(x):
        return _spare(ops.sum(x * ops.tanh(x * 0.0), axis=-1, keepdims=True))

    assert _shrunk(build, "sigmoid") == 4


def test_the_plan_says_why():
    inputs = keras.Input((8,))
    x = ops.sum(layers.Dense(8, "sigmoid", name="units")(inputs), axis=-1, keepdims=True)
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="without weights they are not zero"):
        kd.shrink_plan(model, 0.5)
    assert "Sum" in kd.check(model, kd.Shrink(0.5), exports=[]).problems[0].message


def test_a_recurrent_layer_with_softmax_over_its_units_keeps_them():
    inputs = keras.Input((4, 3))
    x = layers.LSTM(8, activation="softmax", name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(6, name="hidden")(x)))
    small = kd.shrink(model, 0.5)
    assert (small.get_layer("lstm").units, small.get_layer("hidden").units) == (8, 3)
