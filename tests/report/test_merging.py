from __future__ import annotations

import copy

import pytest

from keras_kd.report import complete_result, merge, write_report


@pytest.fixture
def other(result):
    other = copy.deepcopy(result)
    other["title"], other["command"], other["seeds"] = "Another recipe", "python other.py", [0, 7]
    other["versions"]["keras"] = "3.16.0"
    other["models"] = [other["models"][0], other["models"][4]]
    other["models"][1]["file"]["bytes"] = 40_000
    return other


def test_models_of_both_beside_one_teacher(result, other):
    merged = merge([result, other])
    assert [model["key"] for model in merged["models"]] == [
        "teacher", "student_alone", "distilled", "pruned", "int8", "int8_2",
    ]  # fmt: skip
    added = merged["models"][-1]
    assert added["title"] == "Pruned and int8 (Another recipe)" and added["run"] == 1
    assert added["ratio_to_teacher"]["bytes"] == pytest.approx(40_000 / 5_000_000)
    assert merged["pareto_fronts"]["bytes"] == ["int8_2", "teacher"]
    assert [run["command"] for run in merged["runs"]] == [result["command"], "python other.py"]
    assert merged["seeds"] == [0, 1, 2, 7]
    assert merged["versions"]["keras"] == "3.15.1 / 3.16.0"


def test_the_page_tells_both_runs(result, other, tmp_path):
    text = write_report(merge([result, other], title="Both"), tmp_path)[0].read_text()
    assert "python other.py" in text and result["command"] in text and "<h1>Both</h1>" in text


def test_other_machines_are_told(result, other):
    other["environment"] = {"cores": 64}
    assert "latencies cannot be compared" in merge([result, other])["notes"][-1]
    assert not any("latencies" in note for note in merge([result])["notes"])


def test_merged_results_can_be_merged_again(result, other):
    third = copy.deepcopy(other)
    third["title"] = "Third"
    third["models"][1]["file"]["bytes"] = 30_000
    merged = merge([merge([result, other]), third])
    assert len(merged["runs"]) == 3
    assert [model["run"] for model in merged["models"]][-2:] == [1, 2]
    assert merged["models"][-1]["key"] == "int8_3"


def test_one_result_stays_as_it_was(result):
    merged = merge([result])
    full = complete_result(result)
    assert merged["command"] == full["command"] and merged["headline"] == full["headline"]


def test_other_data_is_refused(result, other):
    other["dataset"] = "cifar10"
    with pytest.raises(ValueError, match=r"different data sets .* of 'cifar10'"):
        merge([result, other])
    other["dataset"], other["classes"] = result["dataset"], ["a", "b", "c"]
    with pytest.raises(ValueError, match="different classes"):
        merge([result, other])


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no results to merge"):
        merge([])
