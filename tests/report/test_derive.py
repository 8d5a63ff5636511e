from __future__ import annotations

import copy

import numpy as np
import pytest

from keras_kd.report import complete_result


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
        "latency_ms": pytest.approx(0.31 / 12),
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


def test_interval_by_the_number_of_samples(result):
    result["models"][0]["seeds"] = {"0": {"accuracy": 0.9}}
    result["models"][0]["samples"] = 50
    # As published for 45 of 50 (statsmodels' proportion_confint, method "wilson").
    interval = by_key(complete_result(result), "teacher")["accuracy"]["interval"]
    assert interval == pytest.approx([0.786398, 0.956523], abs=1e-5)
    assert by_key(complete_result(result), "distilled")["accuracy"]["interval"] is None


def test_a_model_without_accuracy(result):
    for seed in by_key(result, "int8")["seeds"].values():
        seed["accuracy"] = float("nan")
    int8 = by_key(complete_result(result), "int8")
    assert int8["accuracy"] == {
        "mean": None, "std": None, "values": [None, None, None], "interval": None,
    }  # fmt: skip
    assert int8["accuracy_drop_points"] is None


def test_change_of_each_class(result):
    full = complete_result(result)
    changes = [entry["change_points"] for entry in by_key(full, "int8")["per_class"]]
    assert changes == pytest.approx([-1.0, 0.0, -1.0])
    assert {entry["change_points"] for entry in by_key(full, "teacher")["per_class"]} == {None}


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
    result["models"][0]["curves"][0]["series"]["loss"] = np.array([1.5, np.nan, np.inf], np.float32)
    result["models"][1]["parameters"] = np.int64(48_000)
    full = complete_result(result)
    assert full["models"][0]["curves"][0]["series"]["loss"] == [1.5, None, None]
    assert type(full["models"][1]["parameters"]) is int
