"""A loaded model evaluates as the saved one did."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compressed(data, **arguments):
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    outputs = {name: layers.Dense(3, name=name)(x) for name in ("one", "two")}
    student = keras.Model(inputs, outputs)
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", **arguments)
    return kd.compress(distiller, data, stages=[kd.Prune(0.5, epochs=0)], verbose=0)


@pytest.fixture
def two(data):
    return data.map(lambda x, y: (x, {"one": y, "two": (y + 1) % 3}))


def test_losses_and_metrics_of_several_outputs(two, tmp_path):
    result = compressed(
        two,
        loss={"one": LOSS, "two": LOSS},
        loss_weights={"one": 1.0, "two": 0.25},
        metrics={"one": ["accuracy"], "two": [keras.metrics.SparseTopKCategoricalAccuracy(2)]},
    )
    result.save(tmp_path / "model.keras")
    loaded = kd.load_compressed(tmp_path / "model.keras")
    expected = result.evaluate(two)
    assert len(expected) == 3
    assert loaded.evaluate(two) == pytest.approx(expected)
    # By hand: the weighted sum of the two cross-entropies.
    logits = result.predict(two)
    labels = np.concatenate([y["one"] for _, y in two])
    total = 0.0
    for name, weight, wanted in (("one", 1.0, labels), ("two", 0.25, (labels + 1) % 3)):
        z = logits[name].astype("float64")
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        total -= weight * log_p[np.arange(len(z)), wanted].mean()
    assert expected["loss"] == pytest.approx(total, rel=1e-5)


def test_what_cannot_be_saved_is_said_at_evaluation(two, tmp_path):
    def own(y_true, y_pred):
        return keras.ops.mean(y_pred, -1)

    result = compressed(two, loss={"one": own, "two": own}, metrics={"one": [own]})
    assert np.isfinite(result.evaluate(two)["loss"])
    result.save(tmp_path / "model.keras")
    loaded = kd.load_compressed(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="your own functions unless they are registered"):
        loaded.evaluate(two)
    np.testing.assert_array_equal(loaded.predict(two)["one"], result.predict(two)["one"])


def test_a_loss_that_has_no_configuration_of_its_own(data, tmp_path):
    class Scaled(keras.losses.Loss):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, y_true, y_pred):
            return self.factor * keras.ops.sparse_categorical_crossentropy(y_true, y_pred, True)

    inputs = keras.Input((8, 8, 1))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", loss=Scaled(2.0), metrics=["accuracy"])
    result = kd.compress(distiller, data, data, stages=[kd.Prune(0.5)], max_drop=100.0, verbose=0)
    assert result.evaluate(data)["loss"] > 0
    result.save(tmp_path / "model.keras")
    assert "accuracy" in kd.load_compressed(tmp_path / "model.keras").evaluate(data)


@keras.saving.register_keras_serializable(package="test_compressed_model")
class WithOwnWeights(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.last = keras.layers.Dense(8), keras.layers.Dense(4)

    def build(self, shape):
        self.own = self.add_weight(shape=(8, 8), name="own")
        self.first.build(shape)
        self.last.build((None, 8))
        self.built = True

    def call(self, x):
        return self.last(self.first(x @ self.own))


def test_parameters_outside_of_layers_count():
    model = WithOwnWeights()
    x = np.ones((4, 8), "float32")
    model(x)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = kd.compress(model, (x, np.zeros(4)), stages=kd.Prune(0.5, epochs=0), verbose=0)
    assert found.count_params() == found.stages[-1].parameters == model.count_params() == 172
