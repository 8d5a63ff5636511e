import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
)

from keras_kd.measuring.scores import ClassCounts, Scores

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


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, (40, 3))
    labels[labels == 4] = 3  # class 4 is answered, but never right
    answers = np.where(generator.random((40, 3)) < 0.6, labels, generator.integers(0, 5, (40, 3)))
    return labels, answers


def test_against_scikit_learn(drawn) -> None:
    labels, answers = drawn
    counts = ClassCounts(6)  # class 5 occurs nowhere
    answered = np.ones_like(labels, bool)
    counts.add(labels[:7], answers[:7], answered[:7])
    counts.add(labels[7:], answers[7:], answered[7:])
    flat, given = labels.ravel(), answers.ravel()
    classes = range(6)
    assert counts.accuracy == np.mean(flat == given)
    assert counts.confusion() == confusion_matrix(flat, given, labels=classes).tolist()
    rows = counts.per_class()
    precision = precision_score(flat, given, labels=classes, average=None, zero_division=np.nan)
    recall = recall_score(flat, given, labels=classes, average=None, zero_division=np.nan)
    for row, p, r in zip(rows, precision, recall, strict=True):
        assert row["samples"] == np.sum(flat == row["label"])
        assert row["precision"] == (None if np.isnan(p) else pytest.approx(p))
        assert row["accuracy"] == (None if np.isnan(r) else pytest.approx(r))
    assert rows[5] == {"label": 5, "samples": 0, "accuracy": None, "precision": None}
    assert rows[4]["accuracy"] is None and rows[4]["precision"] == 0.0


def test_units_against_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels, answers = generator.integers(0, 2, (2, 30, 4))
    counts = ClassCounts(4)
    answered = np.ones_like(labels, bool)
    counts.add_units(labels[:11], answers[:11], answered[:11])
    counts.add_units(labels[11:], answers[11:], answered[11:])
    assert counts.accuracy == np.mean(labels == answers)
    assert counts.confusion() is None
    for row, table in zip(
        counts.per_class(), multilabel_confusion_matrix(labels, answers), strict=True
    ):
        (_, false_positive), (false_negative, right) = table
        assert row["samples"] == right + false_negative
        assert row["accuracy"] == pytest.approx(right / (right + false_negative))
        assert row["precision"] == pytest.approx(right / (right + false_positive))


def test_limits_and_nothing_counted() -> None:
    for classes, per_class, confusion in ((200, 200, 200), (201, 201, None), (1001, None, None)):
        counts = ClassCounts(classes)
        assert (counts.accuracy, counts.per_class(), counts.confusion()) == (None, None, None)
        counts.add(np.array([classes - 1]), np.array([0]), np.array([True]))
        found = counts.per_class(), counts.confusion()
        assert [None if x is None else len(x) for x in found] == [per_class, confusion]
        assert counts.accuracy == 0.0


def test_what_is_not_a_number_is_no_right_answer() -> None:
    output = np.array([[0.9, 0.1], [np.nan, 0.2], [0.3, 0.7], [np.nan, np.nan]])
    scores = Scores("a", "softmax")
    scores.add(output, np.array([0, 0, 1, 0]), output)
    assert scores.accuracy == scores.model_accuracy == scores.agreement == 0.5
    assert scores.counts.confusion() == [[1, 0], [0, 1]]
    assert [row["samples"] for row in scores.counts.per_class()] == [3, 1]
    scores = Scores("a", "sigmoid", task="multilabel")
    scores.add(output, np.array([[1, 0], [0, 0], [0, 1], [0, 0]]), None)
    assert scores.accuracy == 5 / 8
    assert [row["accuracy"] for row in scores.counts.per_class()] == [1.0, 1.0]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2), (2, 2, 1)])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_integers_are_the_classes_that_a_model_chooses(shape, dtype):
    output = np.array([3, 7, 1, 0], dtype).reshape(shape)
    reference = np.array([3, 2, 1, 1], dtype).reshape(shape)
    labels = np.array([3, 7, 2, 0])
    labels = labels.reshape(shape[:-1] if shape[-1] == 1 else shape)
    scores = Scores("out", end="linear")
    if shape == (2, 2):  # units of a sample
        scores.add(output, np.array([1, 0]), reference)
        assert (scores.accuracy, scores.agreement) == (1.0, 0.5)
        return
    for _ in range(2):
        scores.add(output, labels, reference)
    assert (scores.accuracy, scores.model_accuracy) == (0.75, 0.25)
    assert scores.agreement == 0.5
    assert scores.differences.largest is None
    assert scores.counts.per_class() is None and scores.counts.confusion() is None
    assert scores.calibration.result() is None


def test_yes_and_no_of_units_are_compared_unit_by_unit():
    output = np.array([[True, True, False], [False, False, True]])
    reference = np.array([[True, False, False], [False, True, True]])
    scores = Scores("out", task=None)
    scores.add(output, None, reference)
    assert (scores.task, scores.agreement) == ("multilabel", pytest.approx(4 / 6))
    scores = Scores("out")
    scores.add(output, reference.astype(int), None)
    assert scores.accuracy == pytest.approx(4 / 6)
    assert accuracy((output, np.array([0, 2]))) == 1.0  # one class per sample


def test_a_model_without_numbers_agrees_with_nothing():
    output = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    reference = np.array([[np.nan, np.nan], [0.0, 1.0], [np.inf, 0.0]])
    scores = Scores("out", end="linear")
    scores.add(output, None, reference)
    assert (scores.not_finite, scores.without_model) == (0, 2)
    assert scores.agreement == pytest.approx(1 / 3)
    with pytest.warns(UserWarning, match=r"The model gives NaN .* 2 samples, .*'a\.tflite'"):
        scores.warn_of_not_finite("a.tflite")


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 2)])
@pytest.mark.parametrize("column", [False, True])
def test_each_integer_of_a_map_is_a_class(shape, column):
    random = np.random.default_rng(0)
    output, reference, labels = random.integers(0, 4, (3, *shape))
    given = labels[..., None] if column else labels
    scores = Scores("out")
    for part in (slice(0, 1), slice(1, 2)):
        scores.add(output[part], given[part], reference[part])
    assert scores.accuracy == np.mean(output == labels)
    assert scores.model_accuracy == np.mean(reference == labels)
    assert scores.agreement == np.mean(output == reference)
    unlabeled = Scores("out")
    unlabeled.add(output, None, reference)
    assert unlabeled.agreement == scores.agreement
    counted = random.random(shape) < 0.5
    padded = Scores("out")
    padded.add(output, given, reference, counted)
    assert padded.accuracy == np.mean((output == labels)[counted])
    assert padded.agreement == np.mean((output == reference)[counted])


@pytest.mark.parametrize("labels", [[1, 0, 2], [[1], [0], [2]], np.eye(3)[[1, 0, 2]]])
def test_integers_with_one_label_for_all_are_scores(labels):
    votes = np.array([[2, 5, 3], [9, 0, 1], [4, 6, 0]])
    reference = np.array([[3, 4, 3], [8, 1, 1], [1, 0, 9]])
    scores = Scores("out")
    scores.add(votes, np.asarray(labels), reference)
    assert scores.accuracy == scores.agreement == pytest.approx(2 / 3)
    assert scores.model_accuracy == 1.0


@pytest.mark.parametrize("shape", [(3, 0), (0, 4)])
def test_an_output_without_numbers_is_refused(shape):
    for output, reference in ((shape, None), ((3, 4), shape)):
        with pytest.raises(ValueError, match="'boxes' is empty"):
            Scores("boxes").add(
                np.ones(output), None, None if reference is None else np.ones(reference)
            )
