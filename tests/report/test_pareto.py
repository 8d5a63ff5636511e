from __future__ import annotations

import copy

import pytest

from keras_kd.report import complete_result, merge, write_report
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


@pytest.mark.parametrize(
    ("mode", "front"),
    [("min", ["int8", "teacher"]), ("max", ["int8", "distilled", "student_alone"])],
)
def test_models_are_judged_by_the_metric_that_chose_them(result, tmp_path, mode, front):
    errors = {"teacher": 0.25, "student_alone": 3.0, "distilled": 1.5, "int8": 0.5}
    for model in result["models"]:
        model["metrics"] = {"mae": errors.get(model["key"])}
        for seed in model["seeds"].values():
            seed["accuracy"] = None
    result["chosen_by"] = {"metric": "mae", "mode": mode}
    size = result["models"][1]["file"]["bytes"]
    result["models"][1]["file"]["bytes"] = size + 1
    assert complete_result(result)["pareto_fronts"]["bytes"] == front
    write_report(result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "mae against the size of the file" in page and "What mae costs" in page
    assert ("mae, less is better" in page) == (mode == "min")
    assert '<td data-label="mae">0.25</td>' in page and "Accuracy: mean" not in page
    other = copy.deepcopy(result) | {"chosen_by": {"metric": "mae", "mode": "max"}}
    assert ("chosen_by" in merge([result, other])) == (mode == "max")


def test_a_result_judged_by_accuracy_shows_other_metrics_beside_it(result, tmp_path):
    for i, model in enumerate(result["models"]):
        model["metrics"] = {"auc": 0.9 + i / 1000}
    write_report(result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<td data-label="auc">0.901</td>' in page and "Accuracy against latency" in page
