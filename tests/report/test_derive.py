from __future__ import annotations

import copy

import numpy as np
import pytest

from keras_kd.report import complete_result
from keras_kd.report.derive import pareto_front


def by_key(result, key):
    return next(model for model in result["models"] if model["key"] == key)


def test_accuracy_over_the_seeds(result):
    accuracy = by_key(complete_result(result), "student_alone")["accuracy"]
    assert accuracy["values"] == [0.918, 0.920, 0.922]
    assert accuracy["mean"] == pytest.approx(0.92)
    assert accuracy["std"] == pytest.approx(np.std([0.918, 0.920, 0.922], ddof=1))


def test_one_seed_has_no_spread(result):
    assert by_key(complete_result(result), "teacher")["accuracy"]["std"] is None


def test_ratios_and_drop(result):
    full = complete_result(result)
    int8 = by_key(full, "int8")
    assert int8["ratio_to_teacher"] == {
        "parameters": pytest.approx(48_000 / 1_250_000),
        "bytes": pytest.approx(0.01),
        "zipped_bytes": pytest.approx(31_000 / 4_600_000),
        "latency": pytest.approx(0.31 / 12),
    }
    assert int8["accuracy_drop_points"] == pytest.approx(0.7)
    assert by_key(full, "teacher")["accuracy_drop_points"] is None
    pruned = by_key(full, "pruned")
    assert pruned["ratio_to_teacher"]["bytes"] is None
    assert pruned["ratio_to_teacher"]["parameters"] == pytest.approx(0.0384)


def test_without_a_teacher_there_are_no_ratios(result):
    del result["models"][0]
    full = complete_result(result)
    assert set(by_key(full, "int8")["ratio_to_teacher"].values()) == {None}
    assert full["headline"][0] == "Pruned and int8: 50.0 kB, 93.3 % accuracy."


def test_headline(result):
    assert complete_result(result)["headline"] == [
        "Pruned and int8: 1/100 of the teacher's bytes (50.0 kB instead of 5.00 MB), 93.3 % "
        "accuracy, 0.7 points below the teacher's 94.0 %.",
        "Taught by the teacher, the student is 1.2 points above the same student trained alone "
        "(mean of 3 seeds; standard deviation up to 0.2 points).",
    ]


def test_headline_prefers_a_larger_file_that_is_accurate(result):
    for seed in by_key(result, "int8")["seeds"].values():
        seed["accuracy"] -= 0.05
    assert complete_result(result)["headline"][0].startswith("Distilled student: 1/25")


def test_headline_admits_that_distillation_did_not_help(result):
    for seed in by_key(result, "distilled")["seeds"].values():
        seed["accuracy"] -= 0.013
    sentence = complete_result(result)["headline"][1]
    assert "0.1 points below" in sentence and "within that spread" in sentence


def test_derived_keys_are_not_taken_from_the_caller(result):
    result["models"][4]["accuracy"] = {"mean": 0.99, "std": 0.0, "values": [0.99]}
    result["headline"] = ["the best ever"]
    full = complete_result(result)
    assert by_key(full, "int8")["accuracy"]["mean"] == pytest.approx(0.933)
    assert "the best ever" not in full["headline"]


def test_the_result_of_the_caller_stays_as_it_was(result):
    before = copy.deepcopy(result)
    complete_result(result)
    assert result == before


def test_numpy_numbers_and_infinities_become_json(result):
    result["curves"][0]["series"]["loss"] = np.array([1.5, np.nan, np.inf], np.float32)
    result["models"][1]["parameters"] = np.int64(48_000)
    full = complete_result(result)
    assert full["curves"][0]["series"]["loss"] == [1.5, None, None]
    assert type(full["models"][1]["parameters"]) is int


def test_pareto_front():
    points = [(100, 0.9), (50, 0.8), (60, 0.7), (200, 0.9), (50, 0.75), (300, 0.95)]
    assert pareto_front(points) == [1, 0, 5]
    assert pareto_front([]) == []
