import json

import pytest

from keras_kd.cli import main


@pytest.fixture
def measured(distilled, work):
    words = ["measure", str(distilled / "student.keras"), "--data", "test.npz", "--teacher"]
    assert main([*words, "big.keras", "--scale", "255", "--out", "measured", "--quiet"]) == 0
    return "measured/result.json"


def test_page_and_card_of_what_was_measured(keras_kd_json, measured, distilled, work):
    code, result = keras_kd_json(
        "report", measured, str(distilled / "result.json"), "--title", "Animals", "--out", "report"
    )
    assert code == 0
    report = json.loads((work / "report/report.json").read_text())
    assert report["title"] == "Animals"
    assert report["classes"] == ["cat", "dog", "fish"]
    kept = json.loads((work / measured).read_text())["result"]
    accuracies = {model["key"]: model["accuracy"]["mean"] for model in report["models"]}
    by_file = {entry["file"]: entry["accuracy"] for entry in kept["files"]}
    assert accuracies["teacher"] == by_file["big.keras"]
    assert accuracies["student"] == by_file[str(distilled / "student.keras")]
    assert "Animals" in (work / "report/report.html").read_text()
    assert "Animals" in (work / result["card"]).read_text()
    text = (work / "report/report.json").read_text()
    history = json.loads((distilled / "result.json").read_text())["result"]["history"]
    assert str(history["val_accuracy"][-1])[:8] in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no result file 'a.json'"),
        ("{", "'a.json' is not a JSON file"),
        ("{}", "'a.json' is not a result of keras-kd"),
        ('{"format": "keras_kd.cli 1", "result": null}', "belongs to an unfinished run"),
        (
            '{"format": "keras_kd.cli 1", "command": "distill", "result": {}}',
            "There are no measurements to report",
        ),
    ],
)
def test_what_is_no_result(keras_kd, work, content, message):
    if content is not None:
        (work / "a.json").write_text(content)
    code, _, err = keras_kd("report", "a.json")
    assert code == 1
    assert message in err
    assert not (work / "runs/report/report.html").exists()
