"""Limits of what a stage may cost, and the figures of the stages."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.compression.stages.stage import Plan, Stage


class Spoil(Stage):
    """Moves the logits of a class, so that accuracy falls by a known amount."""

    def __init__(self, shift=8.0, epochs=0, name=None):
        super().__init__(epochs, name=name)
        self.shift = shift
        self.trained = []

    def make_plan(self, student, earlier):
        return Plan({}, self.spoil)

    def spoil(self, state, teaching):
        bias = state.model.get_layer("logits").bias
        bias.assign_add([self.shift, 0.0, 0.0])
        state.history[self.name] = {}

    def gentler(self):
        return None if self.shift <= 2.0 else Spoil(self.shift / 4, self.epochs, self.name)

    def get_config(self):
        return {"shift": self.shift, "epochs": self.epochs, "name": self.name}


@pytest.fixture
def exact(data):
    """A distiller whose student answers class 0, 1, 2 with logits of height 3, all right."""
    x, y = next(iter(data.unbatch().batch(48)))
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten(name="flat")(inputs)
    student = keras.Model(inputs, keras.layers.Dense(3, name="logits")(flat), name="student")
    kernel = np.zeros((8, 8, 3))
    for label in range(3):
        kernel[:, 2 * label, label] = 3.0 / 8.0
    student.get_layer("logits").set_weights([kernel.reshape(64, 3), np.zeros(3)])
    assert (np.argmax(student(x), -1) == y.numpy()).all()
    distiller = kd.Distiller(student, keras.models.clone_model(student), [kd.losses.LogitsMSE()])
    distiller.student.set_weights(student.get_weights())
    distiller.compile(
        "sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def test_a_stage_that_costs_too_much_is_tried_more_gently(exact, data, capsys):
    before = exact.student.get_weights()[1].copy()
    result = kd.compress(exact, data, data, stages=[Spoil(32.0)], max_drop=5.0, verbose=2)
    _, record = result.stages
    assert record.outcome == "done more gently"
    assert record.config["shift"] == 2.0 and record.drop <= 5.0
    assert [attempt["config"]["shift"] for attempt in record.attempts] == [32.0, 8.0]
    assert all(attempt["drop"] > 5.0 for attempt in record.attempts)
    # Each attempt begins with the student as it was.
    np.testing.assert_allclose(
        result.model.get_layer("logits").bias, before + np.array([2.0, 0.0, 0.0])
    )
    assert record.metrics["accuracy"] == result.evaluate(data)["accuracy"]
    text = capsys.readouterr().out
    assert "max_drop is 5: again with shift=8.0" in text
    assert "Spoil done more gently: accuracy" in text


def test_a_stage_is_left_out_at_last(exact, data, capsys, tmp_path):
    def run():
        return kd.compress(
            exact,
            data,
            data,
            stages=[Spoil(1000.0), Spoil(0.0, name="harmless")],
            max_drop=5.0,
            retries=1,
            path=tmp_path,
            verbose=2,
        )

    result = run()
    _, first, second = result.stages
    assert (first.outcome, second.outcome) == ("left out", "done")
    assert len(first.attempts) == 2 and first.drop == 0.0 and "spoil" not in result.history
    np.testing.assert_allclose(result.model.get_layer("logits").bias, 0.0)
    assert "left out" in capsys.readouterr().out
    lines = []
    result.summary(lines.append)
    assert lines[0].splitlines()[3].startswith("spoil, left out       0    1.0000   +0.00  ")
    again = run()
    assert again.stages == result.stages
    assert [dataclasses.replace(r, seconds=0) for r in again.stages][1].attempts == first.attempts


class Choosy(Spoil):
    """Has nothing to do below a shift of 20, and says so in its plan."""

    def make_plan(self, student, earlier):
        if self.shift < 20.0:
            raise ValueError("too little")
        return super().make_plan(student, earlier)

    def gentler(self):
        return Choosy(self.shift / 4, self.epochs, self.name)


def test_what_is_too_gentle_to_do_anything_is_not_tried(exact, data):
    result = kd.compress(exact, data, data, stages=[Choosy(200.0)], max_drop=5.0, verbose=0)
    _, record = result.stages
    assert record.outcome == "left out"
    assert [attempt["config"]["shift"] for attempt in record.attempts] == [200.0, 50.0]
    np.testing.assert_allclose(result.model.get_layer("logits").bias, 0.0)


@pytest.mark.promise
def test_reference_is_the_teacher_if_asked_for(exact, data):
    exact.student.get_layer("logits").bias.assign([1000.0, 0.0, 0.0])
    for reference, drop in (("student", 0.0), ("teacher", pytest.approx(66.7, abs=12.0))):
        result = kd.compress(exact, data, data, stages=[Spoil(0.0)], reference=reference, verbose=0)
        assert result.stages[1].drop == drop
    share = result.evaluate(data)["accuracy"]
    assert drop == pytest.approx(100 * (1 - share), abs=12.0)
    assert result.stages[1].drop == pytest.approx(100 * (1 - share))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop": -1.0}, "`max_drop` must be a number"),
        ({"max_drop": 1.0, "validation_data": None}, "pass `validation_data`"),
        ({"reference": "myself"}, '`reference` must be one of "student"'),
        ({"retries": -1}, "`retries` must be a whole number"),
    ],
)
def test_bad_arguments(exact, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.compress(exact, data, **{"validation_data": data, "stages": [Spoil()], **arguments})


def test_metrics_of_which_less_is_better_are_refused(exact, data):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="ce")
    exact.compile("sgd", loss=loss, metrics=[metric])
    with pytest.raises(ValueError, match="of which more is better, but the first one is 'ce'"):
        kd.compress(exact, data, data, stages=[Spoil()], max_drop=1.0, verbose=0)


def test_stages_without_training(distiller, data):
    stages = [kd.Prune(0.75, epochs=0), kd.QuantizeAware(epochs=0)]
    result = kd.compress(distiller, data, stages=stages, verbose=0)
    before, prune, quantize = result.stages
    assert (before.sparsity, before.metrics, before.drop) == (0.0, {}, None)
    kernels = [w for w in distiller.student.weights if len(w.shape) > 1]
    kept = sum(max(1, round(int(np.prod(w.shape)) * 0.25)) for w in kernels)
    assert prune.nonzero_parameters == quantize.nonzero_parameters
    assert (
        before.nonzero_parameters - prune.nonzero_parameters
        == sum(int(np.prod(w.shape)) for w in kernels) - kept
    )
    assert result.history == {"prune": {}, "quantize_aware": {}}


def test_what_is_gentler_and_what_is_a_part():
    assert kd.Prune(0.9).gentler().sparsity == pytest.approx(0.85)
    assert kd.Prune(0.9, epochs=3, layers="a").gentler().get_config() == {
        **kd.Prune(0.9, epochs=3, layers="a").get_config(),
        "sparsity": 0.85,
    }
    assert kd.Prune(0.3).gentler() is None
    assert kd.Prune(0.8).at_strength(0.5).sparsity == pytest.approx(0.4)
    assert kd.QuantizeAware(3).gentler().epochs == 6
    assert kd.QuantizeAware(0).gentler() is None
    assert kd.Prune(sparsity_m_by_n=(2, 4)).gentler() is None
    assert kd.Cluster(16).gentler().number_of_clusters == 32
    assert kd.Cluster(256).gentler() is None
    assert kd.Cluster(16).at_strength(0.5).number_of_clusters == 64
    assert kd.LowRank(0.9).gentler().energy == pytest.approx(0.95)
    assert kd.LowRank(ratio=0.5).gentler().ratio == pytest.approx(0.75)
    assert kd.LowRank(ratio=0.7).gentler() is None
    assert kd.LowRank(max_parameters=100).gentler().max_parameters == 150
    assert kd.LowRank(0.9).at_strength(0.5).energy == pytest.approx(0.95)
    assert kd.Shrink(0.6).gentler().ratio == pytest.approx(0.4)
    assert kd.Shrink(max_parameters=100).gentler().max_parameters == 150
    assert kd.Shrink(drop="block").gentler() is None
    assert kd.Shrink(flops_ratio=0.6).at_strength(0.5).flops_ratio == pytest.approx(0.3)


def test_functions_that_cannot_be_serialized_are_told_by_name(distiller, data, tmp_path):
    namespace: dict = {}
    # As in a notebook, where Python finds no source code.
    exec("spared = lambda layer: layer.name == 'logits'", namespace)
    spared = namespace["spared"]

    def run():
        stages = [kd.Prune(0.9, epochs=0, exclude=spared)]
        return kd.compress(distiller, data, stages=stages, path=tmp_path, verbose=0)

    record = run().stages[1]
    assert "lambda" in str(record.config["choice"]) and record.config["sparsity"] == 0.9
    assert run().stages[1] == record
    assert kd.Prune(0.9, exclude=spared).gentler().choice.exclude is spared
    assert kd.Shrink(0.6, exclude=spared).gentler().exclude is spared


@pytest.mark.promise
def test_a_stage_that_is_left_out_leaves_the_projections_of_hints():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = np.argmax(x, axis=1)

    def network(width):
        inputs = keras.Input((4,))
        h = keras.layers.Dense(width, activation="relu", name="h")(inputs)
        return keras.Model(inputs, keras.layers.Dense(4, name="logits")(h), name=f"of_{width}")

    keras.utils.set_random_seed(0)
    distiller = kd.Distiller(
        network(16), network(8), [kd.losses.LogitsMSE(), kd.Hint("h", "h")], None, 0.5
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"])
    distiller.fit(x, y, epochs=20, verbose=0)
    (trained,) = distiller.distillation_losses[1].layers
    before = trained.get_weights()

    class Seen(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            (self.projection,) = self.model.distillation_losses[1].layers
            self.weights = self.projection.get_weights()

    seen = Seen()
    made = kd.compress(
        distiller, (x, y), (x, y), max_drop=0.0, retries=0, callbacks=[seen], verbose=0,
        stages=[kd.Shrink(0.75, epochs=0), kd.Prune(0.01, epochs=1, learning_rate=1e-9)],
    )  # fmt: skip
    assert [record.outcome for record in made.stages][1] == "left out"
    for now, then in zip(seen.weights, before, strict=True):
        np.testing.assert_array_equal(now, then)


class Break(Spoil):
    """Leaves weights that are NaN."""

    def spoil(self, state, teaching):
        state.model.get_layer("logits").bias.assign([np.nan] * 3)


def test_a_stage_that_leaves_nan_is_not_kept(exact, data):
    options = {"max_drop": 100.0, "retries": 0, "verbose": 0}
    result = kd.compress(exact, data, data, stages=[Break()], **options)
    assert result.stages[-1].outcome == "left out"
    with pytest.raises(ValueError, match="after the stage 'break'"):
        kd.compress(exact, data, stages=[Break()], verbose=0)


class BreakTwice(Break):
    def gentler(self):
        return self


def test_the_reason_for_another_try_is_nan_and_not_the_points(exact, data, capsys):
    stages = [BreakTwice(), kd.Prune(0.5, epochs=0)]
    kd.compress(exact, data, data, stages=stages, max_drop=0.0, retries=1, verbose=2)
    printed = [line for line in capsys.readouterr().out.splitlines() if "BreakTwice " in line]
    assert len([line for line in printed if "weights that are NaN or infinite" in line]) == 2
    assert not [line for line in printed if "costs" in line]


def test_a_stage_evaluates_as_its_distiller_does(exact, data):
    exact.compile(
        "sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        evaluate_distillation=True,
    )
    batch = next(iter(data))
    names = {name for name in exact.fit(*batch, validation_data=batch, verbose=0).history}
    result = kd.compress(exact, batch, batch, stages=kd.Cluster(16), verbose=0)
    assert {name for name in names if name.startswith("val_")} <= {*result.history["cluster"]}
