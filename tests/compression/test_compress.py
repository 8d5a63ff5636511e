"""A plain compiled model is compressed without a teacher; `compress` takes what `fit` takes."""

import keras
import numpy as np
import pytest

import keras_kd as kd

CE = keras.losses.SparseCategoricalCrossentropy


def data(n=64):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = rng.normal(0, 0.2, (n, 6)).astype("float32")
    x[np.arange(n), y] += 1.0
    return x, y.astype("int32")


def trained(**arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(3)]
    )
    arguments = {"loss": CE(from_logits=True), "metrics": ["accuracy"], **arguments}
    model.compile(keras.optimizers.Adam(0.05), **arguments)
    model.fit(*data(), epochs=5, verbose=0)
    return model


def test_a_compiled_model_is_pruned_on_its_labels_alone(tmp_path):
    model = trained()
    before = [w.copy() for w in model.get_weights()]
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    result = kd.compress(
        model,
        data(),
        stages=kd.Prune(0.5, epochs=9),
        epochs=2,
        validation_split=0.25,
        callbacks=watch,
        path=tmp_path / "run",
        verbose=0,
    )
    assert result.sparsity == pytest.approx(0.5, abs=0.05)
    history = result.history["prune"]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "sparsity"}
    assert len(history["loss"]) == len(seen) == 2
    assert result.evaluate(data())["accuracy"] > 0.9
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert model.optimizer.learning_rate.numpy() == pytest.approx(0.05)


def test_the_held_out_part_is_the_last_as_in_fit():
    x, y = data()
    model = trained()
    result = kd.compress(
        model, (x, y), stages=kd.Prune(0.0, epochs=0), validation_split=0.25, verbose=0
    )
    expected = (model(x[48:]).numpy().argmax(-1) == y[48:]).mean()
    assert result.stages[0].metrics["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "token"),
    [
        ({"validation_split": 0.2, "validation_data": data()}, "validation_data"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"reference": "teacher", "max_drop": 1.0, "validation_data": data()}, "reference"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_arguments_are_refused(arguments, token):
    with pytest.raises(ValueError, match=token):
        kd.compress(trained(), data(), stages=kd.Prune(0.5), **arguments)


def test_a_model_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="compile"):
        kd.compress(keras.Sequential([keras.Input((6,))]), data(), stages=kd.Prune(0.5))
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("adam")
    with pytest.raises(ValueError, match="loss"):
        kd.compress(model, data(), stages=kd.Prune(0.5))
    with pytest.raises(TypeError, match="int"):
        kd.compress(3, data(), stages=kd.Prune(0.5))


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


class Hits(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = keras.ops.cast(keras.ops.argmax(y_pred, -1), "float32") == keras.ops.cast(
            y_true, "float32"
        )
        super().update_state(keras.ops.cast(hit, "float32"))


def own_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@pytest.mark.fast_cases("False-lambda", "True-lambda")
@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": OwnLoss(), "metrics": [Hits(name="hits")]},
        {"loss": own_loss, "metrics": [own_loss, "accuracy"]},
        {"loss": lambda y_true, y_pred: own_loss(y_true, y_pred)},
    ],
    ids=["classes", "functions", "lambda"],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_model_compiled_with_what_is_not_registered(arguments, nested, tmp_path):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, "relu", name="hidden")(inputs)
    if nested:
        backbone = keras.Model(inputs, hidden, name="backbone")
        backbone.compile("sgd", **arguments)
        hidden = backbone(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    model.compile("adam", **arguments)
    for stage in (kd.Prune(0.5, epochs=0), kd.LowRank(ratio=0.5, epochs=0)):
        path = tmp_path / stage.name
        made = kd.compress(model, data(), stages=stage, path=path, verbose=0)
        again = kd.compress(model, data(), stages=stage, path=path, verbose=0)
        for one, other in zip(made.model.weights, again.model.weights, strict=True):
            np.testing.assert_array_equal(one, other)
        assert made.evaluate(data()) == pytest.approx(again.evaluate(data()))


def _overriding(name):
    """A class of models with a method of its own, which does what Keras's does."""

    def method(self, *args, **kwargs):
        return getattr(super(kind, self), name)(*args, **kwargs)

    kind = type("Own", (keras.Sequential,), {name: method})
    return kind


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_loss", "compute_metrics"])
@pytest.mark.parametrize("of_the_class", [True, False])
def test_a_training_step_of_ones_own_is_refused(name, of_the_class):
    kind = _overriding(name) if of_the_class else keras.Sequential
    model = kind([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("adam", CE(from_logits=True))
    if not of_the_class:
        setattr(model, name, lambda *args, **kwargs: None)
    stages = kd.Prune(0.5, epochs=0)
    with pytest.raises(ValueError, match=f"`{name}` of the model"):
        kd.compress(model, data(), stages=stages, verbose=0)
    # What the message offers: with the compiled loss alone.
    distiller = kd.Distiller(None, model, [], student_loss_weight=1.0)
    distiller.compile("adam", CE(from_logits=True))
    assert kd.compress(distiller, data(), stages=stages, verbose=0).sparsity == 0.5


def _sharing(inside):
    """A model of two nested models with one layer in common, the second nested more deeply."""
    keras.utils.set_random_seed(0)
    shared = keras.layers.Dense(8, "relu", name="shared")
    first, second, x = keras.Input((6,)), keras.Input((6,)), keras.Input((6,))
    one = keras.Sequential([first, shared], name="one")
    two = keras.Model(second, keras.layers.Dense(8, name="own")(shared(second)), name="two")
    other = shared if inside == "outside" else two
    y = keras.layers.Add()([one(x), other(x)])
    model = keras.Model(x, keras.layers.Dense(3, name="logits")(y))
    model.compile("adam", CE(from_logits=True))
    return model


@pytest.mark.parametrize("inside", ["outside", "two"])
@pytest.mark.parametrize(
    "stage",
    [kd.Prune(0.5), kd.Shrink(0.5), kd.LowRank(ratio=0.5), kd.Cluster(4), kd.QuantizeAware()],
)
def test_a_layer_of_several_nested_models_stays_one(stage, inside):
    model = _sharing(inside)
    stage = stage.changed(epochs=0)
    result = kd.compress(model, data(), stages=stage, verbose=0)
    twice = [path for path in stage.plan(model).layers if path.endswith("shared")]
    records = {record.name: record for record in result.layers}
    assert len({records[path].shapes for path in twice}) == 1
    parts = [path for path in twice if "_low_rank" not in path]
    assert len(parts) == 2
    # Counted once, however often it stands in the records.
    total = sum(record.parameters for record in result.layers)
    assert result.count_params() == total - records[parts[0]].parameters
    plan = stage.plan(model).layers
    if isinstance(stage, kd.QuantizeAware):
        assert {plan[path].action for path in parts} == {"8 bits"}


def test_a_file_of_a_layer_of_several_nested_models_is_refused_before_training(tmp_path):
    stage = kd.Prune(0.5, epochs=1)
    with pytest.raises(ValueError, match="'shared' stands in several models"):
        kd.compress(_sharing("two"), data(), stages=stage, path=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
    result = kd.compress(_sharing("two"), data(), stages=stage.changed(epochs=0), verbose=0)
    with pytest.raises(ValueError, match="'shared' stands in several models"):
        result.save(tmp_path / "student.keras")
    assert not [*tmp_path.iterdir()]
