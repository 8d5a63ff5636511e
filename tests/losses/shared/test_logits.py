from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from keras_kd import losses
from keras_kd.losses.shared.logits import log_probabilities
from keras_kd.system.arguments import constructor_arguments

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


@pytest.mark.parametrize("class_weight", [{1: 19.0}, [1.0, 19.0]])
def test_class_weight_is_saved(class_weight):
    loss = losses.KLDivergence(2.0, class_weight=class_weight)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.class_weight == class_weight
    assert copy.get_config() == loss.get_config()
    assert "class_weight" not in repr(losses.KLDivergence())


def test_class_weight_needs_labels():
    loss = losses.KLDivergence(class_weight={1: 19.0})
    with pytest.raises(ValueError, match="`class_weight` weighs a sample by its label"):
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
    for each in (loss, loss.fresh()):
        with pytest.raises(ValueError, match="has 2 weights, but the outputs have 3 classes"):
            each(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2))


STANDARDIZING = [
    losses.AlphaBeta,
    losses.DIST,
    losses.DKD,
    losses.JensenShannon,
    losses.KLDivergence,
    losses.LogitsMSE,
    losses.MultiLevel,
    losses.NKD,
    losses.ProbabilityMSE,
    losses.ReverseKL,
    losses.SkewKL,
    losses.SoftCrossEntropy,
]


def standardized(x):
    return (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))


def test_every_loss_of_distributions_standardizes():
    found = {
        loss
        for loss in vars(losses).values()
        if getattr(loss, "uses_logits", False) and "standardize" in constructor_arguments(loss)
    }
    tested_alone = {losses.StandardizedKL, losses.ClassConsistency}
    assert found - tested_alone == set(STANDARDIZING)


@pytest.mark.fast_cases("AlphaBeta", "LogitsMSE", "SoftCrossEntropy")
@pytest.mark.parametrize("loss", STANDARDIZING)
def test_standardized_logits(check, loss):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    labels = np.arange(5)
    value, (_, gradient) = check.value_and_gradients(
        loss(standardize=True), teacher, student, labels
    )
    expected = loss()(standardized(teacher), standardized(student), labels=labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    numeric = check.numeric_gradient(
        lambda s: float(loss()(standardized(teacher), standardized(s), labels=labels)), student
    )
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4 * np.abs(numeric).max())
    moved = loss(standardize=True)(teacher, 3.0 * student + 5.0, labels=labels)
    np.testing.assert_allclose(moved, value, rtol=1e-5)
    for scale in (0.0, 1e4):
        check.finite(loss(standardize=True), scale * teacher, scale * student, labels)


@pytest.mark.parametrize("loss", [losses.StandardizedKL, losses.ClassConsistency, *STANDARDIZING])
def test_two_logits_are_not_standardized(check, loss):
    """Of them nothing is left but a sign, and no gradient."""
    given = {} if loss is losses.StandardizedKL else {"standardize": True}
    with pytest.raises(ValueError, match=r"standardize.*Received: shape \(5, 2\)"):
        loss(**given)(check.normal(5, 2), check.normal(5, 2), labels=np.array([0, 1, 0, 1, 0]))


def test_top_k_logits_cannot_be_standardized():
    kept = losses.top_k_logits(np.zeros((2, 5)), 2, 4.0)
    with pytest.raises(ValueError, match="standardize=True"):
        losses.KLDivergence(standardize=True)(kept, np.zeros((2, 5)))


def test_probabilities_are_standardized_as_their_logits(check):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    probabilities = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (teacher, student)]
    np.testing.assert_allclose(
        losses.KLDivergence(2.0, from_logits=False, standardize=True)(*probabilities),
        losses.StandardizedKL(2.0)(teacher, student),
        rtol=1e-6,
    )
