"""The code of the guide to the report runs."""

import json

import pytest


@pytest.mark.promise
def test_code(run_guide, tmp_path):
    names = run_guide("report.md")
    content = json.loads((tmp_path / "exports" / "report.json").read_text())
    teacher, student = content["models"]
    assert teacher["file"]["path"] == "teacher.tflite"
    assert student["parameters"] == 46 and student["confusion"] is not None
    assert student["calibration"]["expected_calibration_error"] is not None
    assert [layer["bits"] for layer in student["layers"]] == [32, 32]
    sizes = sum(layer["bytes"] for layer in student["layers"])
    assert sizes + student["other_bytes"] == student["file"]["bytes"]
    assert len(student["curves"][0]["series"]["val_loss"]) == 20
    assert [model["title"] for model in names["both"]["models"]] == ["Teacher", "Student"]
    assert "TODO" in (tmp_path / "exports" / "MODEL_CARD.md").read_text()
