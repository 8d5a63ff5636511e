import numpy as np
import pytest

from keras_kd.measuring.scores import Scores

CLOSE = np.array([[0.2], [0.7], [0.4]])
LABELS = np.array([0, 1, 0])


def accuracy(*batches, **options):
    scores = Scores("out", **options)
    for output, labels in batches:
        scores.add(output, labels, None)
    return scores.accuracy


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1.0),  # all between 0 and 1: cut at 0.5
        ({"end": "linear"}, 1 / 3),
        ({"end": "positive"}, 1 / 3),
        ({"end": "sigmoid"}, 1.0),
        ({"end": "linear", "from_logits": False}, 1.0),
        ({"from_logits": True}, 1 / 3),
    ],
)
def test_where_one_unit_is_cut(options, expected):
    assert accuracy((CLOSE, LABELS), **options) == pytest.approx(expected)
    assert accuracy((CLOSE[:, 0], LABELS), **options) == pytest.approx(expected)


def test_a_later_batch_shows_that_they_are_logits():
    assert accuracy((CLOSE, LABELS), (np.array([[-3.0]]), np.array([0]))) == pytest.approx(0.5)


def test_confidence_of_probabilities_and_of_logits():
    def error(output):
        scores = Scores("out")
        scores.add(output, output.argmax(-1), None)
        return scores.calibration.result()["expected_calibration_error"]

    assert error(np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1]])) == pytest.approx(0.3)
    # Rows that do not sum to one are logits.
    logits = np.array([[0.9, 0.1, 0.1]])
    assert error(logits) == pytest.approx(1 - np.exp(0.9) / np.exp(logits).sum())


def test_units_of_a_multi_label_output_stand_alone():
    output = np.array([[0.2, 0.9, 0.8], [0.6, 0.1, 0.3]])
    labels = np.array([[0, 1, 1], [1, 0, 0]])
    scores = Scores("out")
    scores.add(output, labels, None)
    assert (scores.task, scores.accuracy) == ("multilabel", 1.0)
    assert accuracy((output, labels), task="multilabel", end="linear") == 0.5


def test_the_models_values_tell_before_the_rounded_ones_of_the_file():
    reference = np.full((4, 64), 0.5 / 63)
    reference[:, 0] = 0.5
    rounded = np.round(reference * 32) / 32  # a row sums to one half
    scores = Scores("out")
    scores.add(rounded, np.zeros(4, int), reference)
    assert scores.calibration.result()["expected_calibration_error"] == pytest.approx(0.5)


def test_positions_that_do_not_count():
    output = np.array([[[2.0, 0.0], [0.0, 2.0], [5.0, 0.0]]])
    labels, counted = np.array([[0, 1, -1]]), np.array([[True, True, False]])
    scores = Scores("out", "linear")
    scores.add(output, labels, output + np.array([0.0, 0.0, 9.0])[:, None], counted)
    assert (scores.accuracy, scores.agreement, scores.differences.largest) == (1.0, 1.0, 0.0)
    scores.add(output, labels, output, np.zeros((1, 3), bool))
    assert (scores.samples, scores.accuracy) == (2, 1.0)
