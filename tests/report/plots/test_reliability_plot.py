from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from keras_kd.report import complete_result, model_card
from keras_kd.report.page import render_page
from keras_kd.report.plots.reliability_plot import reliability_diagrams


def test_a_diagram_for_each_calibrated_model(result):
    diagrams = reliability_diagrams(complete_result(result)["models"])
    assert [(d["title"], d["error"]) for d in diagrams] == [
        ("Teacher", 0.03),
        ("Pruned and int8", 0.07),
    ]
    label = ET.fromstring(diagrams[1]["svg"]).attrib["aria-label"]
    assert "Expected calibration error 7.0 %" in label


def test_only_students_are_drawn_beside_the_teacher(result):
    teacher, student = reliability_diagrams(complete_result(result)["models"])
    assert student["svg"].count("<path") > teacher["svg"].count("<path")


def test_few_answers_give_no_diagram_but_a_sentence(result):
    for model in result["models"]:
        for entry in (model.get("calibration") or {}).get("bins", ()):
            entry["samples"] //= 10
    full = complete_result(result)
    assert reliability_diagrams(full["models"]) == []
    assert "There are 300." in render_page(full)


@pytest.mark.parametrize("count", [0, 999, 1000])
def test_page_and_card_show_calibration_of_the_same_models(result, tmp_path, count):
    for model in result["models"]:
        model.pop("calibration", None)
        if count:
            entry = {"low": 0.0, "high": 1.0, "samples": count, "confidence": 0.5, "accuracy": 0.4}
            model["calibration"] = {"expected_calibration_error": 0.1234, "bins": [entry]}
    card = model_card(result, tmp_path / "card.md").read_text()
    for text in (render_page(complete_result(result)), card):
        assert ("12.34 %" in text) == (count >= 1000)
        assert ("Not shown: it needs 1,000 samples. There are 999." in text) == (count == 999)
        assert ("Calibration\n" in text or "Calibration<" in text) == (count > 0)


def test_without_calibration_there_is_none(result):
    for model in result["models"]:
        model.pop("calibration", None)
    assert reliability_diagrams(complete_result(result)["models"]) == []
