from __future__ import annotations

from keras_kd.report import complete_result
from keras_kd.report.pareto import pareto_front


def test_pareto_front():
    points = [(100, 0.9), (50, 0.8), (60, 0.7), (200, 0.9), (50, 0.75), (300, 0.95)]
    assert pareto_front(points) == [1, 0, 5]
    assert pareto_front([]) == []


def test_fronts_of_a_result(result):
    assert complete_result(result)["pareto_fronts"] == {
        "bytes": ["int8", "teacher"],
        "zipped_bytes": ["int8", "teacher"],
        "latency_ms": ["int8", "teacher"],
    }


def test_a_slow_small_file_is_on_one_front_only(result):
    result["models"][4]["file"]["latency_ms"] = 20.0
    fronts = complete_result(result)["pareto_fronts"]
    assert fronts["bytes"] == ["int8", "teacher"]
    assert fronts["latency_ms"] == ["distilled", "teacher"]


def test_models_without_accuracy_are_on_no_front(result):
    for seed in result["models"][4]["seeds"].values():
        seed["accuracy"] = None
    assert complete_result(result)["pareto_fronts"]["bytes"] == ["distilled", "teacher"]
