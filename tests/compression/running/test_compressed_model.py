"""A loaded model evaluates as the saved one did."""

import warnings

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
    with pytest.warns(UserWarning, match="the loss 'own', the metric 'own', which cannot"):
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


class Hits(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = keras.ops.cast(keras.ops.argmax(y_pred, -1), "float32") == keras.ops.cast(
            y_true, "float32"
        )
        super().update_state(keras.ops.cast(hit, "float32"), sample_weight)


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.sparse_categorical_crossentropy(y_true, y_pred, True)


class NotToBeWritten(OwnLoss):
    def get_config(self):
        return {"table": object()}


class NotToBeRead(OwnLoss):
    @classmethod
    def from_config(cls, config):
        return [][0]


class OfAnObject(Hits):
    """Can be made again from its configuration, but not from a file."""

    def __init__(self, table=None, name="hits"):
        super().__init__(name=name)
        self.table = table

    def get_config(self):
        return {"table": object(), "name": self.name}


def own_loss(y_true, y_pred):
    return keras.ops.sparse_categorical_crossentropy(y_true, y_pred, True)


def highest(y_true, y_pred):
    return keras.ops.max(y_pred, -1)


def linear(data, **arguments):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
    model.compile("sgd", **arguments)
    return kd.compress(model, data, stages=kd.Prune(0.5, epochs=0), verbose=0)


OWN = {"Hits": Hits, "OwnLoss": OwnLoss, "own_loss": own_loss, "highest": highest}
MEASURES = {
    "a metric class": ({"loss": LOSS, "metrics": [Hits(), "accuracy"]}, {"accuracy", "loss"}),
    "a loss class": ({"loss": OwnLoss(), "metrics": ["accuracy"]}, {"accuracy"}),
    "functions": ({"loss": own_loss, "metrics": ["accuracy", highest]}, {"accuracy"}),
    "weighted": (
        {"loss": LOSS, "metrics": [highest], "weighted_metrics": [Hits(), "accuracy"]},
        {"accuracy", "loss"},
    ),
    "wrapped": (
        {"loss": LOSS, "metrics": [keras.metrics.MeanMetricWrapper(highest, name="top")]},
        {"loss"},
    ),
}
OF_TWO = {
    "one of a dictionary": (
        {"loss": {"one": OwnLoss(), "two": LOSS}, "metrics": {"one": [Hits()], "two": "accuracy"}},
        {"loss", "two_accuracy"},
    ),
    "one of several": (
        {"loss": {"one": LOSS, "two": LOSS}, "metrics": {"one": [Hits(), "accuracy", highest]}},
        {"loss", "one_accuracy"},
    ),
    "a metric by itself": (
        {"loss": {"one": LOSS, "two": LOSS}, "metrics": {"one": highest, "two": ["accuracy"]}},
        {"loss", "two_accuracy"},
    ),
    "lists": (
        {"loss": [LOSS, own_loss], "loss_weights": [1.0, 2.0], "metrics": [Hits(), ["accuracy"]]},
        {"loss", "two_accuracy"},
    ),
}


def of_two(data, **arguments):
    if not isinstance(arguments["loss"], list):
        return compressed(data, **arguments)
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    model = keras.Model(inputs, [layers.Dense(3, name=name)(x) for name in ("one", "two")])
    model.compile("sgd", **arguments)
    return kd.compress(model, data, stages=kd.Prune(0.5, epochs=0), verbose=0)


@pytest.mark.fast_cases("a metric class-.keras", "wrapped-.keras", "lists-.h5")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", [*MEASURES, *OF_TWO])
def test_losses_and_metrics_of_the_users_own(data, two, tmp_path, name, suffix, recwarn):
    arguments, known = {**MEASURES, **OF_TWO}[name]
    labeled = data
    if name in OF_TWO:
        labeled = two if name != "lists" else two.map(lambda x, y: (x, (y["one"], y["two"])))
    with keras.saving.custom_object_scope(OWN):  # each stage has its own copy of a metric
        result = (of_two if name in OF_TWO else linear)(labeled, **arguments)
    path = tmp_path / f"model{suffix}"
    result.save(path)
    expected = result.evaluate(labeled)
    assert not [w for w in recwarn if "evaluate" in str(w.message)]
    loaded = kd.load_compressed(path, custom_objects=OWN)
    assert not [w for w in recwarn if "evaluate" in str(w.message)]
    assert loaded.evaluate(labeled) == pytest.approx(expected)
    with pytest.warns(UserWarning, match="cannot be made again") as caught:
        without = kd.load_compressed(path)
    (message,) = [str(w.message) for w in caught if "cannot be made again" in str(w.message)]
    own = [key for key in OWN if f"'{key}'" in message]
    assert own and "accuracy" not in message and "SparseCategorical" not in message
    found = without.evaluate(labeled)
    assert found.keys() == known
    for key in known - ({"loss"} if "loss '" in message else set()):
        assert found[key] == pytest.approx(expected[key])


@pytest.mark.parametrize(
    ("changes", "kind", "written", "known"),
    [
        ({"loss": NotToBeWritten()}, "the loss 'NotToBeWritten'", False, {"accuracy"}),
        ({"loss": NotToBeRead()}, "the loss 'NotToBeRead'", True, {"accuracy"}),
        (
            {"metrics": ["accuracy", OfAnObject()]},
            "the metric 'OfAnObject'",
            False,
            {"loss", "accuracy"},
        ),
    ],
)
def test_what_keras_cannot_write_or_read_again(data, tmp_path, changes, kind, written, known):
    result = linear(data, **{"loss": LOSS, "metrics": ["accuracy"], **changes})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result.save(tmp_path / "model.keras")
    assert [kind in str(w.message) for w in caught] == [True] * (not written)
    classes = {made.__name__: made for made in (NotToBeWritten, NotToBeRead, OfAnObject)}
    with pytest.warns(UserWarning, match=f"{kind}, which cannot be made again"):
        loaded = kd.load_compressed(tmp_path / "model.keras", custom_objects=classes)
    expected, found = result.evaluate(data), loaded.evaluate(data)
    assert found == pytest.approx({key: expected[key] for key in known})


def test_a_lambda_is_code(data, tmp_path):
    result = linear(
        data, loss=lambda y_true, y_pred: own_loss(y_true, y_pred), metrics=["accuracy"]
    )
    with pytest.warns(UserWarning, match="lambda"):
        result.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="the loss '<lambda>'"):
        assert kd.load_compressed(tmp_path / "model.keras").evaluate(data).keys() == {"accuracy"}
    loaded = kd.load_compressed(tmp_path / "model.keras", safe_mode=False)
    assert loaded.loss is not None and loaded.metrics is not None


def test_it_is_called_as_a_keras_model_is(data):
    x, y = next(iter(data.unbatch().batch(48)))
    inputs = keras.Input((8, 8, 1))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    student.compile("sgd", LOSS, metrics=["accuracy"])
    result = kd.compress(student, (x, y), stages=kd.Prune(0.5, epochs=0), verbose=0)
    assert result.predict(x, verbose=0).shape == (48, 3)
    whole = result.evaluate((x, y))
    assert result.evaluate(x, y, verbose=0) == whole
    weights = np.arange(48) % 2
    assert result.evaluate(x, y, weights) == result.evaluate((x, y, weights))
    for name in ("fit", "get_weights", "save_weights"):
        with pytest.raises(AttributeError, match=rf"use `\.model\.{name}`"):
            getattr(result, name)
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        result.fitt  # noqa: B018
