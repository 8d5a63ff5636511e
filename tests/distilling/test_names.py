"""Names: those that meet in the logs, and those of models that TensorFlow refuses."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd

SparseCE = keras.losses.SparseCategoricalCrossentropy
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 16)


def network(width=3, name=None, outputs=("logits",), inner=None):
    inputs = keras.Input((4,))
    x = layers.Dense(width, name="features")(inputs)
    x = x if inner is None else inner(x)
    found = [layers.Dense(3, name=output)(x) for output in outputs]
    return keras.Model(inputs, found if len(found) > 1 else found[0], name=name)


class Subclassed(keras.Model):
    """A student of two outputs whose names only a step shows."""

    def __init__(self):
        super().__init__()
        self.heads = {"student": layers.Dense(3), "other": layers.Dense(3)}

    def call(self, x):
        return {name: head(x) for name, head in self.heads.items()}


class Measured(layers.Layer):
    """A layer with a metric of its own."""

    def __init__(self, metric):
        super().__init__()
        self.metric = keras.metrics.Mean(metric)

    def call(self, x):
        self.metric.update_state(keras.ops.mean(x))
        return x


def distiller_of(outputs, losses=None, **models):
    both = [{name: kd.losses.KLDivergence() for name in outputs}]
    student = network(outputs=outputs, **models)
    return kd.Distiller(network(5, outputs=outputs), student, losses or both)


@pytest.mark.parametrize("output", ["student", "distillation", "val"])
def test_an_output_whose_loss_is_called_as_one_of_ours_is_refused(output):
    distiller = distiller_of([output, "other"])
    with pytest.raises(ValueError, match=f"Received: '{output}_loss'"):
        distiller.compile("sgd", SparseCE(from_logits=True))
    distiller.compile("sgd", {output: SparseCE(from_logits=True)})  # it has no entry in the logs


def test_outputs_of_other_names_have_their_losses_in_the_logs():
    distiller = distiller_of(["loss", "weighted_student"])
    distiller.compile("sgd", SparseCE(from_logits=True))
    logs = distiller.fit(X, [Y, Y], verbose=0).history
    parts = logs["loss_loss"][0] + logs["weighted_student_loss"][0]
    assert logs["student_loss"][0] == pytest.approx(parts, rel=1e-5)


def test_names_that_only_a_step_shows_are_refused_in_the_first():
    student = Subclassed()
    both = {name: kd.losses.KLDivergence() for name in student.heads}
    distiller = kd.Distiller(Subclassed(), student, [both])
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match="Received: 'student_loss'"):
        distiller.fit(X, dict.fromkeys(both, Y), verbose=0)
    assert int(distiller.optimizer.iterations) == 0


@pytest.mark.parametrize("metric", ["loss", "student_loss", "distillation_loss", "val_loss"])
@pytest.mark.parametrize("where", ["compile", "layer"])
def test_metrics_called_as_one_of_ours_are_refused(metric, where):
    inner = Measured(metric) if where == "layer" else None
    given = [keras.metrics.SparseCategoricalAccuracy(name=metric)] if where == "compile" else None
    distiller = distiller_of(["logits"], [kd.Hint("features", "features")], inner=inner)
    with pytest.raises(ValueError, match=f"Received: '{metric}'"):
        distiller.compile("sgd", SparseCE(from_logits=True), metrics=given)


def test_a_metric_called_as_one_of_ours_behind_its_output_is_refused():
    distiller = distiller_of(["student", "other"])
    metric = keras.metrics.SparseCategoricalAccuracy(name="loss")
    with pytest.raises(ValueError, match="Received: 'student_loss'"):
        distiller.compile("sgd", [SparseCE(from_logits=True), None], metrics=[[metric], []])


def test_distillation_losses_make_way_for_outputs_metrics_and_layers():
    losses = [
        {"kl": kd.losses.KLDivergence(), "other": None},
        {"kl": kd.losses.KLDivergence(name="kl_loss"), "other": None},
        kd.Hint("features", "features", name="inner"),
    ]
    distiller = distiller_of(["kl", "other"], losses, inner=Measured("inner"))
    metric = keras.metrics.SparseCategoricalAccuracy(name="divergence")
    distiller.compile("sgd", SparseCE(from_logits=True), metrics=[[metric], []])
    logs = distiller.fit(X, [Y, Y], verbose=0).history
    assert {"kl_divergence_2", "kl_loss_2", "inner_2"} <= set(logs)
    total = sum(logs[name][0] for name in ("kl_divergence_2", "kl_loss_2", "inner_2"))
    assert logs["distillation_loss"][0] == pytest.approx(total, rel=1e-5)
    assert 0 <= logs["kl_divergence"][0] <= 1
    parts = logs["kl_loss"][0] + logs["other_loss"][0]
    assert logs["student_loss"][0] == pytest.approx(parts, rel=1e-5)


def test_several_losses_for_one_output_are_refused():
    distiller = kd.Distiller(network(5), network(), kd.losses.KLDivergence())
    with pytest.raises(ValueError, match="`loss` holds 2 losses"):
        distiller.compile("sgd", [SparseCE(from_logits=True), SparseCE(from_logits=True)])


@pytest.mark.parametrize("name", ["_x", "my model", "-x"])
def test_models_that_keras_cannot_run_by_their_name_are_refused(name):
    loss = kd.losses.KLDivergence()
    ensemble = kd.teachers.Ensemble([network(), network(name=name)])
    for make in (
        lambda: kd.Distiller(network(5), network(name=name), loss),
        lambda: kd.Distiller(network(5, name=name), network(), loss),
        lambda: kd.Distiller(ensemble, network(), loss),
        lambda: kd.Distiller(network(5), network(), loss, name=name),
        lambda: kd.MutualDistiller([network(), network(name=name)], loss),
    ):
        with pytest.raises(ValueError, match="The name of a model"):
            make()


def test_a_renamed_model_is_trained():
    student = network(name="_x")
    student.name = "x"
    hint = kd.Hint("features", "features", name="_my hint")
    distiller = kd.Distiller(network(5), student, [kd.losses.KLDivergence(), hint])
    distiller.compile("sgd", SparseCE(from_logits=True))
    assert distiller.fit(X, Y, verbose=0).history["_my hint"][0] > 0
