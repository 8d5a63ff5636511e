from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_kd.measuring.device_benchmark import DeviceBenchmark
from keras_kd.measuring.device_cost import DeviceCost
from keras_kd.report import complete_result, make_result, model_result, write_report


def measured(**entries):
    """The `to_dict` of a `TFLiteResult`, as far as a report reads it."""
    return {
        "path": "student.tflite", "bytes": 1000, "zipped_bytes": 800, "accuracy": 0.9,
        "model_accuracy": 0.92, "agreement": 0.98, "latency_ms": 0.5, "latency_p90_ms": 0.6,
        "latency_p99_ms": 0.9, "operators": {"CONV_2D": 1}, "samples": 50, "parameters": 77,
        "metrics": {}, "per_class": None, "confusion": [[25, 0], [5, 20]],
        "calibration": {"expected_calibration_error": 0.1, "bins": []}, "macs": 1234,
        **entries,
    }  # fmt: skip


def small_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="a"),
            keras.layers.ReLU(name="b"),
            keras.layers.Dense(2, name="c"),
        ]
    )
    kernel = np.ones((4, 3))
    kernel[:2] = 0
    model.get_layer("a").set_weights([kernel, np.zeros(3)])
    return model


def test_row_of_a_file():
    row = model_result("student", "Student", None, measured(), description="Small.")
    assert row["parameters"] == 77 and row["nonzero_parameters"] is None
    assert row["seeds"] == {
        "0": {
            "accuracy": 0.9, "model_accuracy": 0.92, "agreement": 0.98, "bytes": 1000,
            "zipped_bytes": 800,
        }
    }  # fmt: skip
    assert row["accuracy_of"] == "file"
    assert row["file"]["latency_ms"] == 0.5 and row["file"]["latency_p99_ms"] == 0.9
    assert row["file"]["macs"] == 1234 and row["samples"] == 50
    assert row["confusion"] == [[25, 0], [5, 20]] and "per_class" not in row


def test_devices_stand_beside_each_other(tmp_path):
    cost = DeviceCost(
        "a.tflite", "ethos-u55-128", "High_End", "Shared_Sram", 500.0, 19, 17,
        {"Quantize": 1, "Dequantize": 1}, 8_000_000, 171_094, 0.342, 39_792, 0, 38_752, "5.2.0",
    )  # fmt: skip
    phone = DeviceBenchmark(
        "p.txt", "Pixel <9>", "benchmark_model", None, 2.5, 2.0, 3.0, 50, 8.0, 2_000_000,
        {"TfLiteXNNPackDelegate": 19},
    )  # fmt: skip
    files = measured(device_cost=cost.to_dict())
    row = model_result("student", "Student", None, files, devices=[phone])
    of_phone, of_board = row["devices"]
    assert of_phone["latency_ms"] == 2.5 and of_phone["memory"] == {"at its peak": 2_000_000}
    assert of_board["operators"] == {"NPU": 17, "CPU": 2}
    assert of_board["memory"] == {"SRAM": 39_792, "flash": 38_752}
    assert "estimate" in of_board["by"]
    page, written = write_report(make_result("Devices", [row]), tmp_path)
    text = page.read_text()
    assert (
        "Pixel &lt;9&gt;" in text and "39.8 kB SRAM" in text and "TfLiteXNNPackDelegate 19" in text
    )
    assert json.loads(written.read_text())["models"][0]["devices"] == row["devices"]
    assert model_result("student", "Student", None, measured())["devices"] == []
    nothing = {**cost.to_dict(), "npu_operators": 0, "latency_ms": 0.0}
    assert model_result("a", "A", None, measured(device_cost=nothing))["devices"][0][
        "latency_ms"
    ] is None  # fmt: skip
    with pytest.raises(TypeError, match="devices"):
        model_result("student", "Student", None, measured(), devices=[{"ms": 3}])


def test_what_evaluate_tflite_returns_is_taken():
    from keras_kd.measuring.result import TFLiteResult

    given = {field.name: None for field in dataclasses.fields(TFLiteResult)}
    known = {key: value for key, value in measured().items() if key in given}
    result = TFLiteResult(**{**given, **known, "constants": 10, "zero_constants": 5})
    row = model_result("student", "Student", None, result)
    assert row["file"]["bytes"] == 1000 and row["seeds"]["0"]["accuracy"] == 0.9
    assert complete_result(make_result("t", [row]))["models"][0]["file"]["zero_constants"] == 5


def test_row_of_a_keras_model():
    row = model_result("teacher", "Teacher", small_model(), accuracy=0.95)
    assert row["parameters"] == 23 and row["nonzero_parameters"] == 23 - 6
    assert row["accuracy_of"] == "keras model" and row["file"] is None
    assert [layer["name"] for layer in row["layers"]] == ["a", "b", "c"]
    assert row["layers"][0]["sparsity"] == 0.5 and row["layers"][0]["bits"] == 32
    assert row["layers"][0]["bytes"] is None and row["other_bytes"] is None


def test_zeros_of_a_frozen_model_are_counted():
    model = small_model()
    model.trainable = False
    row = model_result("teacher", "Teacher", model, accuracy=0.95)
    assert row["nonzero_parameters"] == row["parameters"] - 6


def test_seeds():
    files = {3: measured(accuracy=0.8), 5: measured(accuracy=0.9, bytes=1100)}
    row = model_result("student", "Student", None, files, model_accuracy={5: 0.91})
    assert list(row["seeds"]) == ["3", "5"] and row["file"]["bytes"] == 1000
    assert row["seeds"]["5"]["model_accuracy"] == 0.91 and row["seeds"]["5"]["bytes"] == 1100
    assert make_result("t", [row])["seeds"] == [3, 5]


def test_accuracies_that_are_given_are_kept():
    row = model_result("s", "S", None, measured(), accuracy={0: 0.9, 1: 0.5, 2: 0.4})
    assert [seed["accuracy"] for seed in row["seeds"].values()] == [0.9, 0.5, 0.4]
    assert "bytes" in row["seeds"]["0"] and row["accuracy_of"] == "keras model"
    row = model_result("s", "S", None, {7: measured()}, accuracy=0.95, model_accuracy=0.96)
    assert row["seeds"]["7"] | {"accuracy": 0.95, "model_accuracy": 0.96} == row["seeds"]["7"]


@pytest.mark.parametrize("name", ["accuracy", "model_accuracy"])
def test_accuracies_that_do_not_fit_the_seeds_are_refused(name):
    files = {3: measured(), 5: measured()}
    wrong = [0.9, {4: 0.9, 5: 0.9}, *([{3: 0.9}, {}] if name == "accuracy" else [])]
    for value in wrong:
        with pytest.raises(ValueError, match=rf"`{name}` must be a dict with a value for each"):
            model_result("s", "S", None, files, **{name: value})


def test_entries_replace_what_was_found():
    layers = [
        {"name": "a", "class": "Dense", "parameters": 1, "sparsity": None, "bits": None,
         "bytes": 4, "done": [], "not_done": []}
    ]  # fmt: skip
    row = model_result("s", "S", None, measured(), layers=layers, parameters=5, samples=7)
    assert row["parameters"] == 5 and row["samples"] == 7 and row["layers"] == layers


def test_any_callable_may_be_the_teacher():
    row = model_result("teacher", "Teacher", lambda x: x, accuracy=0.95)
    assert row["parameters"] is None
    full = complete_result(make_result("t", [row, model_result("s", "S", None, measured())]))
    assert full["models"][1]["ratio_to_teacher"]["bytes"] is None
    assert full["models"][1]["accuracy_drop_points"] == pytest.approx(5.0)


def test_something_else_than_a_measurement_is_refused():
    with pytest.raises(TypeError, match=r"`file_result` must be .* Received: str"):
        model_result("s", "S", None, {0: "student.tflite"})


def test_result_of_this_process(tmp_path):
    rows = [
        model_result("teacher", "Teacher", small_model(), measured(bytes=9000)),
        model_result("student", "Student", None, measured(), history={"loss": [2.0, 1.0]}),
    ]
    result = make_result("Mine", rows, classes=np.array(["no", "yes"]), notes=["A note."])
    assert result["versions"]["keras"] == keras.__version__
    assert result["environment"]["cores"] >= 1
    page, numbers = write_report(result, tmp_path)
    assert "Mine" in page.read_text()
    full = json.loads(numbers.read_text())
    assert full["classes"] == ["no", "yes"] and full["seeds"] == [0]
    assert full["models"][1]["curves"][0]["series"] == {"loss": [2.0, 1.0]}


def test_what_is_no_compression_is_refused():
    with pytest.raises(TypeError, match=r"`compressed` must be what `kd.compress` returned"):
        model_result("s", "S", None, measured(), compressed=3)


def test_what_an_export_measured_stands_beside_the_file(tmp_path):
    import keras_kd as kd

    model = small_model()
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    path = kd.export_tflite(model, tmp_path / "a.tflite", validation_data=x, verbose=False)
    row = model_result("student", "Student", model, measured(path=str(path)), layers=False)
    assert row["file"]["at_export"] == {
        "agreement": 1.0,
        "signal_to_noise_db": path.fidelity.to_dict()["signal_to_noise_db"],
        "samples": 64,
        "held_out": True,
        "calibration": None,
    }
    result = complete_result(make_result("Digits", [row]))
    card = kd.report.model_card(result, tmp_path / "card.md").read_text()
    assert "Student at export: 100.0 % of its model's answers" in card
    page, _ = write_report(result, tmp_path)
    assert "on 64 samples, held out" in page.read_text()
    other = model_result("student", "Student", model, measured(), layers=False)
    assert "at_export" not in other["file"]
