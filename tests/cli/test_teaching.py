"""Teacher and student that differ in activation, size, colors or scale see the same image."""

import warnings
from types import SimpleNamespace

import click
import keras
import numpy as np
import pytest

from keras_kd.cli import measuring
from keras_kd.cli import task_data as task_data_of_cli
from keras_kd.cli.console import Console
from keras_kd.cli.model_files import LoadedModel
from keras_kd.cli.preprocessing import Preprocessing
from keras_kd.cli.teaching import (
    _teacher_inputs,
    make_distiller,
    task_data,
    warn_of_lost_stages,
)

SOURCE = SimpleNamespace(count=3, split="validation")

SETTINGS = {
    "loss": None,
    "hint": None,
    "temperature": 2.0,
    "student_loss_weight": 0.1,
    "teacher_scale": None,
    "teacher_offset": None,
}


def loaded(shape, activation, units=3, notes=None, first=(), name="model"):
    inputs = keras.Input(shape)
    x = inputs
    for layer in first:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(units, activation=activation)(x)
    return LoadedModel(f"{name}.keras", keras.Model(inputs, outputs), notes or {})


@pytest.mark.parametrize("teacher", [None, "softmax"])
@pytest.mark.parametrize("student", [None, "softmax"])
def test_softmax_or_not_gives_the_same_loss(teacher, student):
    shape = (4, 4, 1)
    models = [loaded(shape, teacher, name="t"), loaded(shape, student, name="s")]
    distiller = make_distiller(SETTINGS, *models, Preprocessing(255.0, 0.0, shape))
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    signals = distiller.objective.teacher_signals(x)
    outputs = distiller.student(x)
    losses = distiller.objective.losses(signals, np.zeros(5), outputs, {}, None)
    logits = []
    for model in models:
        kernel, bias = (np.float64(w) for w in model.keras_model.get_weights())
        logits.append(x.reshape(5, -1).astype("float64") @ kernel + bias)
    t, s = (np.exp(z / 2) / np.exp(z / 2).sum(-1, keepdims=True) for z in logits)
    expected = 4 * (t * np.log(t / s)).sum(-1).mean()
    np.testing.assert_allclose(float(losses["kl_divergence"]), expected, rtol=1e-4)


def test_one_unit_and_sigmoids_are_taught_by_binary_kl_divergence():
    shape = (4, 4, 1)
    for activation, units in ((None, 1), ("sigmoid", 1), ("sigmoid", 3)):
        distiller = make_distiller(
            SETTINGS,
            loaded(shape, "sigmoid", units),
            loaded(shape, activation, units),
            Preprocessing(255.0, 0.0, shape),
        )
        assert distiller.distillation_losses[0].name == "binary_kl_divergence"
        assert distiller.distillation_losses[0].from_logits is (activation is None)


def test_other_classes_are_refused():
    shape = (4, 4, 1)
    with pytest.raises(ValueError, match=r"'t.keras' has 5 outputs .* 's.keras' 3"):
        make_distiller(
            SETTINGS,
            loaded(shape, None, 5, name="t"),
            loaded(shape, None, 3, name="s"),
            Preprocessing(255.0, 0.0, shape),
        )


def adapter(teacher_shape, student_shape, ours, **settings):
    teacher, student = loaded(teacher_shape, None, name="t"), loaded(student_shape, None, name="s")
    return _teacher_inputs({**SETTINGS, **settings}, teacher, student, ours)


def test_the_teacher_takes_what_the_student_takes_where_nothing_differs():
    assert adapter((4, 4, 1), (4, 4, 1), Preprocessing(255.0, 0.0, (4, 4, 1))) is None


def test_another_scale():
    function = adapter(
        (4, 4, 1), (4, 4, 1), Preprocessing(255.0, 0.0, (4, 4, 1)),
        teacher_scale=127.5, teacher_offset=-1.0,
    )  # fmt: skip
    x = np.linspace(0, 1, 16, dtype="float32").reshape(1, 4, 4, 1)
    np.testing.assert_allclose(function(x), 2 * x - 1, atol=1e-6)


def test_another_size():
    function = adapter((8, 8, 1), (4, 4, 1), Preprocessing(255.0, 0.0, (4, 4, 1)))
    assert function(np.ones((2, 4, 4, 1), "float32")).shape == (2, 8, 8, 1)
    assert float(np.asarray(function(np.ones((2, 4, 4, 1), "float32"))).mean()) == pytest.approx(1)


def test_colors():
    function = adapter((4, 4, 1), (4, 4, 3), Preprocessing(255.0, 0.0, (4, 4, 3)))
    assert function(np.ones((2, 4, 4, 3), "float32")).shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match=r"takes images in color .* Give the student 3 channels"):
        adapter((4, 4, 3), (4, 4, 1), Preprocessing(255.0, 0.0, (4, 4, 1)))


def test_scaling_inside_one_of_them_must_be_explained():
    shape = (4, 4, 1)
    teacher = loaded(shape, None, first=[keras.layers.Rescaling(1 / 255)], name="t")
    student = loaded(shape, None, name="s")
    ours = Preprocessing(255.0, 0.0, shape)
    with pytest.raises(ValueError, match=r"'t.keras' scales its input itself .* --teacher-scale 1"):
        _teacher_inputs(SETTINGS, teacher, student, ours)
    function = _teacher_inputs({**SETTINGS, "teacher_scale": 1.0}, teacher, student, ours)
    np.testing.assert_allclose(function(np.ones((1, *shape), "float32")), 255.0)


def test_other_names_of_classes_are_refused():
    shape = (4, 4, 1)
    teacher = loaded(shape, None, notes={"class_names": ["cat", "dog", "fish"]}, name="t")
    student = loaded(shape, None, notes={"class_names": ["dog", "cat", "fish"]}, name="s")
    with pytest.raises(ValueError, match=r"'t.keras' .* cat, dog, fish, but .* on dog, cat, fish"):
        make_distiller(SETTINGS, teacher, student, Preprocessing(255.0, 0.0, shape))


def test_an_offset_of_the_teacher_without_its_scale_is_refused():
    shape = (4, 4, 1)
    with pytest.raises(
        click.UsageError, match=r"Received: --teacher-offset -1. Add --teacher-scale"
    ):
        adapter(shape, shape, Preprocessing(255.0, 0.0, shape), teacher_offset=-1.0)


@pytest.mark.parametrize(("held_out", "says"), [("train.npz", True), ("test.npz", False)])
def test_validation_data_that_are_trained_on(work, recwarn, held_out, says):
    settings = {
        "data": "train.npz", "validation_data": held_out, "validation_split": 0.1, "seed": 0,
        "scale": 255.0, "offset": None, "batch_size": 32,
    }  # fmt: skip
    teacher, student = (loaded((8, 8, 1), None, name=name) for name in "ts")
    task_data(settings, teacher, student, Console())
    said = " ".join(str(warning.message) for warning in recwarn)
    assert ("'s.keras' was trained on 96 of the 96 examples" in said) is says


def test_the_validation_split_is_the_one_that_is_measured(monkeypatch):
    opened = []
    for module in (measuring, task_data_of_cli):
        monkeypatch.setattr(module, "open_source", lambda *given: opened.append(given) or SOURCE)
    settings = {"data": None, "validation_data": "pets", "part": "validation"}
    measuring.Measuring({**settings, "teacher_scale": None, "teacher_offset": None}, *[None] * 3)
    task_data_of_cli.open_validation("pets")
    assert opened == [("pets", "validation")] * 2


def test_stages_that_a_training_undoes_are_told():
    made = {name: "done" for name in ("", "Shrink", "Prune", "QuantizeAware")}
    records = [
        SimpleNamespace(stage=name, outcome=outcome)
        for name, outcome in {**made, "Cluster": "left out"}.items()
    ]
    student = LoadedModel("s.keras", SimpleNamespace(stages=records), {})
    with pytest.warns(UserWarning, match="'s.keras' .* its zeros and few bits"):
        warn_of_lost_stages(student)
    with pytest.warns(UserWarning, match="does not keep its few bits"):
        warn_of_lost_stages(student, {"Prune", "Cluster"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost_stages(student, {"Prune", "QuantizeAware"})
        warn_of_lost_stages(loaded((4, 4, 1), None))
