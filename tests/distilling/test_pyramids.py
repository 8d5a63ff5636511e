from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_kd as kd


def backbone(widths, size=32, name="backbone"):
    x = inputs = keras.Input((size, size, 3))
    for i, width in enumerate(widths, start=1):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", name=f"down{i}")(x)
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"c{i}")(x)
    return keras.Model(inputs, x, name=name)


def nested(widths):
    inner = backbone(widths)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(7, 1, name="head")(inner(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x))


def pairs(hints):
    return [(hint.teacher_layer, hint.student_layer) for hint in hints]


def test_pairs_the_last_layer_of_each_level():
    teacher, student = backbone([4, 6, 8, 10]), backbone([2, 3, 4])
    assert pairs(kd.pair_levels(teacher, student)) == [("c2", "c2"), ("c3", "c3")]
    assert pairs(kd.pair_levels(teacher, student, levels=[1, 3])) == [("c1", "c1"), ("c3", "c3")]


def test_levels_are_those_of_the_own_input():
    hints = kd.pair_levels(backbone([4, 6, 8], 64), backbone([2, 3, 4], 28))
    assert pairs(hints) == [("c2", "c2"), ("c3", "c3")]


def test_opens_nested_models():
    teacher, student = nested([4, 6, 8]), nested([2, 3, 4])
    assert pairs(kd.pair_levels(teacher, student))[-1] == ("head", "head")
    hints = kd.pair_levels(teacher, student, teacher_within="backbone", student_within="backbone")
    assert pairs(hints)[-1] == ("backbone/c3", "backbone/c3")


def test_each_hint_has_a_loss_of_its_own_and_trains():
    teacher, student = nested([4, 6, 8]), nested([2, 3, 4])
    loss = kd.losses.MaskedGenerative(scale=0.01, seed=3)
    hints = kd.pair_levels(
        teacher, student, loss, teacher_within="backbone", student_within="backbone"
    )
    assert all(hint.loss is not loss and hint.loss.seed == 3 for hint in hints)
    distiller = kd.Distiller(teacher, student, hints, student_loss_weight=0.0)
    distiller.compile("sgd")
    history = distiller.fit(np.ones((4, 32, 32, 3)), epochs=2, verbose=0).history
    assert {"masked_generative_c2", "masked_generative_c3"} <= set(history)
    assert history["loss"][1] < history["loss"][0]


def test_refuses_what_has_no_levels():
    teacher, student = backbone([4, 6, 8]), backbone([2, 3])
    with pytest.raises(ValueError, match=r"levels=\[3\].*student \[0, 1, 2\]"):
        kd.pair_levels(teacher, student, levels=[3])
    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="no known size"):
        kd.pair_levels(teacher, free)
    with pytest.raises(ValueError, match="no layer 'neck'"):
        kd.pair_levels(teacher, student, teacher_within="neck")
    with pytest.raises(ValueError, match="has no graph"):
        kd.pair_levels(teacher, student, teacher_within="c1")
