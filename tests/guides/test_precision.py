"""The code of the guide to calibration and precision runs."""

import pytest

import keras_kd as kd


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("precision.md")
    assert names["found"].within and names["found"].path.exists()
    (kernel,) = kd.read_metadata("exports/student_int4.tflite")["kernels_in_4_bits"]
    assert kernel["bits"] == 4 and kernel["error"] < 0.2
