from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from keras_kd import losses
from keras_kd.losses.shared.logits import log_probabilities

LABELS = np.array([3, 0, 5, 1])
LOSSES = [
    losses.KLDivergence,
    losses.SoftCrossEntropy,
    losses.ProbabilityMSE,
    losses.DKD,
    losses.NKD,
    losses.DIST,
    losses.StandardizedKL,
]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_give_the_value_of_their_logits(check, loss):
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    np.testing.assert_allclose(
        loss(from_logits=False)(softmax(teacher), softmax(student), LABELS),
        loss()(teacher, student, LABELS),
        rtol=1e-9,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_probabilities_of_zero_and_one_stay_finite(check, loss):
    one_hot = np.eye(6)[LABELS]
    for teacher, student in (
        (one_hot, one_hot[::-1]),
        (one_hot, softmax(check.normal(4, 6))),
        (softmax(check.normal(4, 6)), one_hot),
    ):
        check.finite(loss(from_logits=False), teacher, student, LABELS)


def test_small_probabilities_are_told_apart():
    np.testing.assert_allclose(
        log_probabilities(np.array([1.0, 1e-20, 0.0], "float32")),
        np.log([1.0, 1e-20, 1e-30]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_refuses_outputs_without_classes(loss):
    with pytest.raises(ValueError, match="two classes or more"):
        loss()(np.zeros(3), np.zeros(3), np.zeros(3))


@pytest.mark.parametrize("one_hot", [False, True], ids=["indices", "one_hot"])
@pytest.mark.parametrize("loss", LOSSES)
def test_class_weight_is_the_sample_weight_of_the_label(check, loss, one_hot):
    teacher, student = check.normal(4, 6), check.normal(4, 6)
    labels = np.eye(6)[LABELS] if one_hot else LABELS
    weighted = loss(class_weight={3: 5.0, 0: 0.5, 5: 0.0})
    given = np.array([2.0, 1.0, 1.0, 3.0])
    expected = loss()(teacher, student, labels, sample_weight=given * [5.0, 0.5, 0.0, 1.0])
    np.testing.assert_allclose(weighted(teacher, student, labels, given), expected, rtol=1e-6)
    listed = loss(class_weight=[0.5, 1.0, 1.0, 5.0, 1.0, 0.0])
    np.testing.assert_allclose(listed(teacher, student, labels, given), expected, rtol=1e-6)
    assert abs(float(expected) - float(loss()(teacher, student, labels, given))) > 1e-3


def test_class_weight_of_positions_and_of_those_without_a_label(check):
    teacher, student = check.normal(2, 3, 4), check.normal(2, 3, 4)
    labels = np.array([[0, 1, -1], [255, 3, 1]])
    value = losses.KLDivergence(class_weight={1: 10.0, 3: 0.0})(teacher, student, labels)
    weights = np.array([[1.0, 10.0, 1.0], [1.0, 0.0, 10.0]])
    expected = losses.KLDivergence()(teacher, student, sample_weight=weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_class_weight_is_saved():
    loss = losses.KLDivergence(2.0, class_weight={1: 19.0})
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.class_weight == {1: 19.0}
    assert copy.get_config() == loss.get_config()
    assert "class_weight" not in repr(losses.KLDivergence())


def test_class_weight_needs_labels():
    loss = losses.KLDivergence(class_weight={1: 19.0})
    with pytest.raises(ValueError, match="`class_weight` weighs an example by its label, but"):
        loss(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize("received", [3, "ab", {"a": 1.0}, {0: "x"}])
def test_refuses_a_class_weight_of_another_kind(received):
    with pytest.raises(TypeError, match="`class_weight` must be a dictionary such as"):
        losses.DKD(class_weight=received)


@pytest.mark.parametrize("received", [{0: -1.0}, {-1: 1.0}, [1.0, float("nan")]])
def test_refuses_negative_class_weights(received):
    with pytest.raises(ValueError, match="class_weight"):
        losses.KLDivergence(class_weight=received)


def test_refuses_a_class_weight_of_a_class_that_is_not_there():
    loss = losses.KLDivergence(class_weight={7: 2.0})
    with pytest.raises(
        ValueError, match=r"names class 7, but the outputs have the classes 0 \.\.\. 2"
    ):
        loss(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2))


def test_refuses_a_list_of_another_length_than_the_classes():
    loss = losses.KLDivergence(class_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="has 2 weights, but the outputs have 3 classes"):
        loss(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2))
