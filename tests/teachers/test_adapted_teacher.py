import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.models.features import FeatureReader, find_layer
from keras_kd.teachers.adapted_teacher import AdaptedTeacher, Adapters, unadapted


@pytest.fixture
def teacher():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(6)(hidden), name="big")


def twice(x):
    return keras.ops.concatenate([x, x], axis=-1)


def first_two(outputs):
    return outputs[:, :2]


def test_inputs_and_outputs_go_through_the_functions(teacher):
    x = np.ones((5, 2), "float32")
    adapted = AdaptedTeacher(teacher, twice, first_two)
    np.testing.assert_allclose(adapted(x), teacher(twice(x))[:, :2], rtol=1e-6)
    assert adapted.name == "big"


def test_layers_are_those_of_the_teacher_and_can_be_read(teacher):
    adapted = AdaptedTeacher(teacher, twice)
    assert find_layer(adapted, "hidden") is teacher.get_layer("hidden")
    x = np.ones((5, 2), "float32")
    outputs, features = FeatureReader(adapted, ["hidden"]).run(adapted, x, training=False)
    assert features["hidden"].shape == (5, 3)
    assert outputs.shape == (5, 6)


def test_output_structure_is_told_without_a_pass(teacher):
    assert AdaptedTeacher(teacher).output_structure().shape == (None, 6)
    shape = tuple(AdaptedTeacher(teacher, None, first_two).output_structure().shape)
    assert shape == (None, 2)


def test_adapters_without_functions_leave_the_teacher_alone(teacher):
    assert Adapters().adapt(teacher) is teacher
    assert unadapted(Adapters(twice).adapt(teacher)) is teacher
    assert unadapted(teacher) is teacher
    assert unadapted(None) is None


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="`teacher_outputs` must be a function or a layer"):
        Adapters(None, [1, 2])


def test_adapted_outputs_have_the_mask_of_the_teacher(tagger, tokens):
    teacher, student = tagger(1), tagger(3, masked=False)
    distiller = kd.Distiller(
        teacher,
        student,
        kd.losses.LogitsMSE(),
        student_loss_weight=0.0,
        teacher_outputs=lambda logits: 2.0 * logits,
    )
    distiller.compile("sgd")
    squares = np.mean((2 * teacher(tokens).numpy() - student(tokens).numpy()) ** 2, axis=-1)
    value = distiller.evaluate(tokens, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(value, squares[tokens > 0].mean(), rtol=1e-5)


def test_outputs_of_other_positions_have_no_mask(tagger, tokens):
    adapted = AdaptedTeacher(tagger(1), outputs=lambda logits: logits[:, ::2])
    assert get_keras_mask(adapted(tokens)) is None
    flat = AdaptedTeacher(tagger(1), outputs=lambda logits: keras.ops.mean(logits, axis=-1))
    assert get_keras_mask(flat(tokens)) is None
