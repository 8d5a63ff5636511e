from __future__ import annotations

import dataclasses
import pickle

import pytest

from keras_kd.measuring.budget import Budget, BudgetExceeded
from keras_kd.measuring.result import TFLiteResult


def result(**measured) -> TFLiteResult:
    fields = dict.fromkeys((field.name for field in dataclasses.fields(TFLiteResult)), None)
    given = {
        "path": "a.tflite", "bytes": 1000, "zipped_bytes": 800, "latency_ms": 2.0,
        "accuracy": 0.89, "model_accuracy": 0.9, "agreement": 0.97,
    }  # fmt: skip
    return TFLiteResult(**{**fields, **given, **measured})


def test_all_limits_kept() -> None:
    budget = Budget(
        max_bytes=1000, max_zipped_bytes=800, max_drop=1.0, min_accuracy=0.89, min_agreement=0.97,
        max_latency_ms=2.0,
    )  # fmt: skip
    assert budget.check(result()) == []
    budget.enforce(result())
    assert Budget().check(result()) == []


def test_every_broken_limit_is_told() -> None:
    budget = Budget(
        max_bytes=999, max_zipped_bytes=799, max_drop=0.5, min_accuracy=0.9, min_agreement=0.98,
        max_latency_ms=1.5,
    )  # fmt: skip
    assert budget.check(result()) == [
        "The file has 1,000 bytes, over max_bytes=999.",
        "The zipped file has 800 bytes, over max_zipped_bytes=799.",
        "Accuracy is 89.00%, 1.00 points below the reference of 90.00%, over max_drop=0.5.",
        "Accuracy is 89.00%, under min_accuracy=0.9.",
        "Agreement is 97.00%, under min_agreement=0.98.",
        "The median latency is 2 ms, over max_latency_ms=1.5.",
    ]
    with pytest.raises(BudgetExceeded, match=r"exceeds.* over max_bytes") as caught:
        budget.enforce(result())
    assert len(caught.value.broken) == 6 and isinstance(caught.value, ValueError)


def test_the_reference_is_given_or_the_keras_model() -> None:
    budget = Budget(max_drop=1.0)
    assert budget.check(result(), reference_accuracy=0.91) != []
    assert budget.check(result(model_accuracy=0.95), reference_accuracy=0.89) == []
    assert budget.check(result(model_accuracy=0.95)) != []
    assert budget.check(result(accuracy=0.99)) == []  # better than the reference


def test_what_was_not_measured_is_not_kept() -> None:
    empty = result(accuracy=None, model_accuracy=None, agreement=None)
    broken = Budget(max_drop=1, min_accuracy=0.5, min_agreement=0.5).check(empty)
    assert len(broken) == 3 and all("could not be checked" in sentence for sentence in broken)
    (sentence,) = Budget(max_drop=1).check(result(model_accuracy=None))
    assert "pass `reference_accuracy`" in sentence


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"max_bytes": 0}, ValueError, "above 0"),
        ({"max_bytes": "1MB"}, TypeError, "must be a number"),
        ({"max_drop": -1}, ValueError, "percentage point"),
        ({"min_accuracy": 90}, ValueError, "write 0.9 for 90 %"),
        ({"min_agreement": True}, TypeError, "must be a number"),
        ({"max_latency_ms": float("nan")}, ValueError, "above 0"),
    ],
)
def test_limits_which_make_no_sense(limits, error, message) -> None:
    with pytest.raises(error, match=message):
        Budget(**limits)


def test_a_reference_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write 0\.9 for 90 %"):
        Budget(max_drop=1).check(result(), reference_accuracy=90)


def test_the_error_survives_pickling() -> None:
    error = BudgetExceeded(["A.", "B."], result())
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.broken) == (str(error), ["A.", "B."])
