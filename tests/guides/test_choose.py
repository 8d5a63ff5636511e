"""The blocks of the page of situations run, and do what the page says."""

import pytest

from keras_kd import read_metadata


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("../choose.md")
    assert names["sized"].bytes <= 6_000
    assert names["result"].agreement > 0.9
    assert read_metadata("exports/calibrated.tflite")["quantization"] == "int8"
    assert names["source"].arena_size > 0
