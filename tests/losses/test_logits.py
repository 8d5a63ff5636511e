from __future__ import annotations

import numpy as np
import pytest

from keras_kd import losses
from keras_kd.losses.logits import log_probabilities

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
