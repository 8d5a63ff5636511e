import json

import pytest

from keras_kd import read_metadata


def test_forms_side_by_side(keras_kd_json, keras_kd, distilled, work):
    student = str(distilled / "student.keras")
    words = ["benchmark", student, "--data", "test.npz", "--calibration-data", "test.npz"]
    words += ["--quantization", "float32", "int8", "--out", "forms"]
    code, result = keras_kd_json(*words)
    assert code == 0
    forms = result["forms"]
    assert forms["float32"]["latency_ratio"] == 1.0
    assert forms["int8"]["result"]["agreement"] > 0.8
    for form, measured in forms.items():
        assert (work / f"forms/student_{form}.tflite").stat().st_size == measured["result"]["bytes"]
    kept = json.loads((work / "forms/result.json").read_text())["result"]
    assert kept["table"] == result["table"]
    code, out, _ = keras_kd(*words)
    assert code == 0 and result["table"] in out
    # The files know what the student knew.
    code, measured = keras_kd_json("measure", "forms/student_int8.tflite", "--data", "test.npz")
    assert measured["class_names"] == read_metadata("forms/student_int8.tflite")["class_names"]
    assert measured["files"][0]["accuracy"] == forms["int8"]["result"]["accuracy"]


def test_training_data_is_told(keras_kd_json, keras_kd, distilled, materials):
    student, train = str(distilled / "student.keras"), str(materials / "train.npz")
    words = ["benchmark", student, "--data", train, "--quantization", "float32", "--out", "forms"]
    code, _, error = keras_kd(*words, "--quiet")
    assert code == 0 and "was trained on 86 of the 96 examples" in error
    assert f"`keras-kd measure --data {train} --part validation" in error
    _, measured = keras_kd_json("measure", "forms/student_float32.tflite", "--data", train)
    assert measured["files"][0]["trained_on"] == 86


@pytest.mark.promise
def test_its_recipe_repeats_it(keras_kd, distilled, work):
    student = str(distilled / "student.keras")
    words = ["--data", "test.npz", "--quantization", "float32", "--quiet"]
    assert keras_kd("benchmark", student, *words, "--out", "once")[0] == 0
    assert keras_kd("run", "once/recipe.toml", "--out", "again")[0] == 0
    sizes = [(work / name / "student_float32.tflite").stat().st_size for name in ("once", "again")]
    assert sizes[0] == sizes[1]


def test_a_form_that_does_not_exist(keras_kd, distilled):
    student = str(distilled / "student.keras")
    code, _, error = keras_kd("benchmark", student, "--data", "test.npz", "--quantization", "itn8")
    assert code == 2 and "Did you mean 'int8'" in error
