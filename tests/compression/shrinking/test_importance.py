import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.compression.shrinking.importance import Importance, TaylorScores, taylor_scores
from keras_kd.compression.shrinking.walk import analyze


def _model():
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Dense(5, use_bias=False, activation="relu", name="b")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape) ** 2 + 0.1)
    return model


def _groups(model, importance, reduction):
    analysis = analyze(model, {}, lambda path, layer: None)
    groups = analysis.groups.solve()
    scores = importance.groups(analysis, groups, reduction)
    made = {name: analysis.made[(id(model.get_layer(name)), "channels")] for name in "ab"}
    return {name: scores[groups.of(axis)] for name, axis in made.items()}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_l1_is_that_of_all_kernels_of_a_channel(reduction):
    model = _model()
    a, b, out = (np.abs(np.array(model.get_layer(n).kernel), dtype="f8") for n in ("a", "b", "out"))
    scores = _groups(model, Importance("l1"), reduction)
    combine = np.mean if reduction == "mean" else np.sum
    made, taken = a.sum(axis=0), b.sum(axis=1)
    expected = combine([made / made.mean(), taken / taken.mean()], axis=0)
    np.testing.assert_allclose(scores["a"], expected, rtol=1e-6)
    made, taken = b.sum(axis=0), out.sum(axis=1)
    expected = combine([made / made.mean(), taken / taken.mean()], axis=0)
    np.testing.assert_allclose(scores["b"], expected, rtol=1e-6)


def test_batch_norm_is_the_scale_and_l1_where_there_is_none():
    model = _model()
    scores = _groups(model, Importance("batch_norm"), "mean")
    gamma = np.abs(np.array(model.get_layer("bn").gamma, dtype="f8"))
    np.testing.assert_allclose(scores["a"], gamma / gamma.mean(), rtol=1e-6)
    np.testing.assert_allclose(scores["b"], _groups(model, Importance("l1"), "mean")["b"])


def test_taylor_is_the_change_of_the_loss_to_first_order():
    model = _model()
    batches = [np.random.default_rng(i).normal(size=(6, 3)).astype("float32") for i in range(3)]

    def loss(x, y, sample_weight, model):
        return keras.ops.mean(keras.ops.square(model(x, training=False) - y))

    data = [(x, np.ones((6, 2), "float32")) for x in batches]
    scores = taylor_scores(model, data, loss, 2)
    kernel = model.get_layer("b").kernel
    before = np.array(kernel)
    expected = []
    for x, y in data[:2]:
        changes = []
        for channel in range(5):
            values = []
            for step in (1e-2, -1e-2):
                scaled = before.copy()
                scaled[:, channel] *= 1 + step
                kernel.assign(scaled)
                values.append(float(loss(x, y, None, model)))
            changes.append((values[0] - values[1]) / 2e-2)
        expected.append(np.abs(changes))
    kernel.assign(before)
    np.testing.assert_allclose(scores.along(kernel, 1), np.mean(expected, 0), rtol=2e-2)


def test_taylor_scores_of_several_weights_are_summed_before_the_magnitude():
    first, second = keras.Variable([1.0, 2.0]), keras.Variable([3.0])
    scores = TaylorScores([first, second])
    scores.add([np.array([1.0, -2.0], "float32"), np.array([0.5], "float32")])
    scores.add([np.array([1.0, 1.0], "float32"), None])
    assert scores.total([first, second]) == pytest.approx((1.5 + 3.0) / 2)
    np.testing.assert_allclose(scores.along(first, 0), [1.0, 3.0])
    np.testing.assert_allclose(scores.along(second, 0), [0.75])


def test_a_loss_without_gradients_is_refused():
    with pytest.raises(ValueError, match="found no gradient"):
        taylor_scores(_model(), [], lambda *args: 0.0, 2)
