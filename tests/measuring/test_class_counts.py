from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
)

from keras_kd.measuring.class_counts import ClassCounts


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
    counts.add(labels[:7], answers[:7])
    counts.add(labels[7:], answers[7:])
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
    counts.add_units(labels[:11], answers[:11])
    counts.add_units(labels[11:], answers[11:])
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
        counts.add(np.array([classes - 1]), np.array([0]))
        found = counts.per_class(), counts.confusion()
        assert [None if x is None else len(x) for x in found] == [per_class, confusion]
        assert counts.accuracy == 0.0
