"""The code of the guide to exporting runs."""

import pathlib

import pytest

from keras_kd.litert.model_file import ModelFile


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("exporting.md")
    assert names["embeddings"].shape == (5, 64)
    assert names["logits"].shape == (1, 10)
    sizes = {
        name: pathlib.Path(f"exports/{name}.tflite").stat().st_size
        for name in ("dense", "student_int8")
    }
    assert sizes["student_int8"] < sizes["dense"]
    operators = ModelFile(pathlib.Path("exports/student.tflite").read_bytes()).operator_counts()
    assert set(operators) == {"CONV_2D", "MEAN", "FULLY_CONNECTED"}
