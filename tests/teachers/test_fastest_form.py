from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import fastest_form
from keras_kd.teachers.fastest_form import accelerate, in_bfloat16, measure_forms


@pytest.fixture
def teacher():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="out"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="logits"),
        ]
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")


def measured(monkeypatch, *times):
    monkeypatch.setattr(fastest_form, "side_by_side", lambda runs: list(times[: len(runs)]))


def test_the_forms_and_how_far_they_are_off(teacher, images):
    forms = measure_forms(teacher, images)
    assert [form.name for form in forms] == ["as it is", "folded", "folded, bfloat16"]
    assert forms[0].model is teacher
    assert forms[0].time == 1.0
    assert forms[0].difference == 0.0
    assert forms[1].difference < 1e-5
    assert 1e-5 < forms[2].difference < 2e-2
    reference = np.asarray(teacher(images))
    difference = np.abs(np.asarray(forms[2].model(images)) - reference).max()
    assert forms[2].difference == pytest.approx(difference / np.abs(reference).max(), rel=1e-3)


def test_the_fastest_within_the_tolerance_is_chosen(teacher, images, monkeypatch, capsys):
    measured(monkeypatch, 4.0, 3.0, 1.0)
    exact = accelerate(teacher, images)
    assert exact.get_layer("conv").compute_dtype == "float32"
    assert isinstance(exact.get_layer("norm"), keras.layers.Activation)
    printed = capsys.readouterr().out
    assert "Teacher folded: 0.75 of the time" in printed
    assert printed.count("<- chosen") == 1
    half = accelerate(teacher, images, tolerance=0.05, verbose=0)
    assert half.get_layer("conv").compute_dtype == "bfloat16"
    assert capsys.readouterr().out == ""


def test_the_teacher_stays_where_nothing_is_clearly_faster(teacher, images, monkeypatch):
    measured(monkeypatch, 1.0, 0.97, 1.1)
    assert accelerate(teacher, images, tolerance=1.0, verbose=0) is teacher


def test_bfloat16_keeps_the_layers_of_the_outputs_and_the_weights(teacher):
    copy = in_bfloat16(teacher)
    assert copy.get_layer("conv").compute_dtype == "bfloat16"
    assert copy.get_layer("logits").compute_dtype == "float32"
    for a, b in zip(copy.weights, teacher.weights, strict=True):
        assert a.dtype == "float32"
        np.testing.assert_array_equal(a, b)


def test_teaches_with_hints(teacher, images, monkeypatch):
    measured(monkeypatch, 3.0, 2.0, 1.0)
    fast = accelerate(teacher, images, tolerance=0.05, verbose=0)
    student = keras.models.clone_model(teacher)
    losses = [kd.losses.KLDivergence(), kd.Hint("out", "out")]
    distiller = kd.Distiller(fast, student, losses, student_loss_weight=0.0)
    distiller.compile("sgd")
    history = distiller.fit(images, verbose=0).history
    assert np.isfinite(history["loss"][0])


@pytest.mark.parametrize("tolerance", [-1.0, "2%", float("nan")])
def test_refuses_what_is_no_tolerance(teacher, images, tolerance):
    with pytest.raises(ValueError, match="`tolerance`"):
        accelerate(teacher, images, tolerance=tolerance)


def test_refuses_what_is_no_model_or_no_batch(teacher, images):
    with pytest.raises(ValueError, match=r"A Keras model is expected\. Received: str"):
        accelerate("teacher.keras", images)
    with pytest.raises(ValueError, match=r"must be one batch of inputs\. Received: a dataset"):
        accelerate(teacher, tf.data.Dataset.from_tensor_slices(images).batch(4))
