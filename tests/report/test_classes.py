from __future__ import annotations

import pytest

from keras_kd.report import complete_result
from keras_kd.report.classes import class_name, class_rows, confusion_tables


def test_change_against_the_teacher(result):
    table = class_rows(complete_result(result))
    assert [row["name"] for row in table["rows"]] == ["shirt", "coat", "bag"]
    teacher, student = table["rows"][0]["entries"]
    assert teacher["change_points"] is None
    assert student["change_points"] == pytest.approx(-1.0)
    assert table["compared"] and table["left_out"] == 0


def test_confusion_with_changes(result):
    teacher, student = confusion_tables(complete_result(result))
    assert not teacher["compared"] and student["compared"]
    cells = student["rows"][2]["cells"]
    assert [cell["count"] for cell in cells] == [12, 0, 88]
    assert [cell["change"] for cell in cells] == [1, 0, -1]
    assert cells[2]["right"] and cells[2]["shade"] > cells[0]["shade"] > cells[1]["shade"] == 0


def test_of_many_classes_the_worst_are_shown(result):
    size = 100
    confusion = [[0] * size for _ in range(size)]
    for i in range(size):
        confusion[i][i], confusion[i][(i + 1) % size] = 50, i
    result["classes"] = []
    for model in result["models"]:
        model.pop("confusion", None)
        model.pop("per_class", None)
    result["models"][0] |= {
        "confusion": confusion,
        "per_class": [
            {"label": i, "samples": 50 + i, "accuracy": 50 / (50 + i), "precision": None}
            for i in range(size)
        ],
    }
    full = complete_result(result)
    (table,) = confusion_tables(full)
    assert table["rows"] is None
    assert [pair["count"] for pair in table["pairs"]][:3] == [99, 98, 97]
    assert table["pairs"][1] == {
        "label": "98", "answer": "99", "count": 98, "samples": 148, "change": None,
    }  # fmt: skip
    assert class_rows(full)["left_out"] == 60


def test_names():
    assert class_name(1, ["a", "b"]) == "b"
    assert class_name("coat", ["a", "b"]) == "coat"
    assert class_name(7, ["a", "b"]) == "7"


def test_nothing_by_class(result):
    for model in result["models"]:
        model.pop("confusion", None)
        model.pop("per_class", None)
    full = complete_result(result)
    assert class_rows(full) is None and confusion_tables(full) == []
