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


def write(path, command, settings, result):
    content = {"format": "keras_kd.cli 1", "command": command, "settings": settings}
    path.write_text(json.dumps({**content, "result": result}))
    return str(path)


def measurement(path, models, data="a.npz", classes=("cat", "dog"), **settings):
    files = [
        {"file": model, "kind": "model", "accuracy": 0.5, "samples": 50, "parameters": 58}
        for model in models
    ]
    result = {"data": data, "class_names": list(classes), "files": files, "teacher": None}
    settings = {"data": data, **settings}
    return write(path, "measure", settings, {**result, "limits": {}, "not_kept": {}})


def compression(path, student, model, sparsity):
    layer = {
        "name": "h", "class_name": "Dense", "parameters": 40, "sparsity": sparsity, "bits": 32,
        "done": [], "not_done": [],
    }  # fmt: skip
    history = {"prune": {"loss": [sparsity]}}
    result = {"model": model, "parameters": 58, "history": history, "layers": [layer]}
    return write(path, "compress", {"student": student}, result)


def report_of(work):
    models = json.loads((work / "runs/report/report.json").read_text())["models"]
    return {
        model["title"]: (
            [layer["sparsity"] for layer in model["layers"]],
            [curve["series"]["loss"] for curve in model["curves"]],
        )
        for model in models
    }


def test_every_measurement_and_its_part_are_on_the_page(keras_kd, work):
    results = [
        measurement(work / f"{name}.json", [f"{name}.keras"], part="validation") for name in "ab"
    ]
    assert keras_kd("report", *results)[0] == 0
    report = json.loads((work / "runs/report/report.json").read_text())
    assert report["part"] == "validation"
    assert {"measure", "measure 2"} <= {*report["runs"][0]["recipe"]}


def test_every_training_stands_at_its_model(keras_kd, work):
    distilled = write(
        work / "d.json", "distill", {"student": "new.keras"},
        {"model": "d/student.keras", "parameters": 58, "history": {"loss": [3.0]}},
    )  # fmt: skip
    words = [
        measurement(work / "ma.json", ["ca/a.keras", "a0.keras"]),
        measurement(work / "mb.json", ["cb/b.keras", "b0.keras"], data="./a.npz"),
        compression(work / "ca.json", "d/student.keras", "./ca/a.keras", 0.5),
        compression(work / "cb.json", "b.keras", "cb/b.keras", 0.9),
        compression(work / "cc.json", "c.keras", "cc/c.keras", 0.7),
        distilled,
    ]
    code, _, err = keras_kd("report", *words)
    assert code == 0, err
    assert report_of(work) == {
        "a0.keras": ([], []),
        "b0.keras": ([], []),
        "a.keras": ([0.5], [[0.5], [3.0]]),  # made of what `distill` made
        "b.keras": ([0.9], [[0.9]]),
        "c.keras (not measured)": ([0.7], [[0.7]]),
    }


@pytest.mark.parametrize(
    "other",
    [
        {"data": "b.npz"},
        {"classes": ["dog", "cat"]},
        {"part": "validation"},
        {"part": "validation", "validation_data": "b.npz"},
    ],
)
def test_measurements_of_different_data_are_refused(keras_kd, work, other):
    words = [measurement(work / "a.json", ["a.keras"])]
    words += [measurement(work / "b.json", ["b.keras"], **other)]
    code, _, err = keras_kd("report", *words)
    assert code == 1 and "Measurements of different" in err and "b.json" in err
    # A report may name the same data otherwise, if the classes are the same.
    assert keras_kd("report", words[0])[0] == 0
    code, _, err = keras_kd("report", "runs/report/report.json", words[1], "--out", "both")
    assert code == ("classes" in other)
    assert "different classes" in err or not code


def test_parts_of_one_dataset_that_are_the_same(keras_kd, work):
    for name in ("a.npz", "b.npz"):  # of a file, no part and all are the same
        (work / name).touch()
    words = [measurement(work / "a.json", ["a.keras"], validation_data="b.npz")]
    words += [measurement(work / "b.json", ["b.keras"], part="all")]
    assert keras_kd("report", *words, "--title", "a b", "--out", "c d")[0] == 0
    command = json.loads((work / "c d/report.json").read_text())["command"]
    assert command.endswith("--out 'c d' --title 'a b'")


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
