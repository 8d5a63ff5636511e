from __future__ import annotations

import pytest

from keras_kd.export.options import ExportOptions, check_data, check_target


def test_batch_sizes_by_signature():
    options = ExportOptions(batch_size={"b": 3}, signatures={"a": None, "b": "pool"})
    assert options.batch_sizes(["a", "b"]) == {"a": "auto", "b": 3}
    assert ExportOptions(batch_size=None).batch_sizes(["a", "b"]) == {"a": None, "b": None}


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "any", {"serving_default": 0}])
def test_wrong_batch_sizes(size):
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        ExportOptions(batch_size=size)


@pytest.mark.parametrize("count", [0, True, 2.0, "all"])
def test_wrong_calibration_batches(count):
    with pytest.raises(ValueError, match="`calibration_batches`"):
        ExportOptions(calibration_batches=count)


def test_integers_need_data_unless_they_were_trained():
    check_data(ExportOptions("int8"), True, None)
    check_data(ExportOptions("int4"), False, None)
    with pytest.raises(ValueError, match="needs `representative_data`"):
        check_data(ExportOptions("int8"), False, None)
    with pytest.raises(ValueError, match="needs `representative_data`"):
        check_data(ExportOptions("int16x8"), True, None)


def test_the_path_ends_in_tflite():
    assert check_target("a/b.tflite").name == "b.tflite"
    with pytest.raises(ValueError, match=r"Write to 'a/b\.tflite'"):
        check_target("a/b.lite")


def test_swapped_arguments_are_told():
    with pytest.raises(TypeError, match=r"`path` .*Received: dict\. Write export_tflite\(model"):
        check_target({})  # type: ignore[arg-type]
