import json

import pytest


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
    assert code == 1 and "Did you mean 'int8'" in error
