from __future__ import annotations

import pytest

from keras_kd.report import complete_result


def test_missing_keys_are_all_named_at_once(result):
    del result["seeds"]
    del result["models"][1]["parameters"]
    del result["models"][4]["file"]["operators"]
    del result["curves"][0]["series"]
    del result["layers"][2]["bits"]
    with pytest.raises(ValueError) as error:
        complete_result(result)
    message = str(error.value)
    assert "result has no 'seeds'" in message
    assert "result['models'][1] has no 'parameters'" in message
    assert "result['models'][4]['file'] has no 'operators'" in message
    assert "result['curves'][0] has no 'series'" in message
    assert "result['layers'][2] has no 'bits'" in message


def test_a_model_needs_a_seed(result):
    result["models"][2]["seeds"] = {}
    with pytest.raises(ValueError, match=r"\['models'\]\[2\]\['seeds'\] is empty"):
        complete_result(result)


def test_keys_are_unique(result):
    result["models"][2]["key"] = "int8"
    with pytest.raises(ValueError, match="repeated: int8"):
        complete_result(result)


def test_there_are_models(result):
    result["models"] = []
    with pytest.raises(ValueError, match="there is none"):
        complete_result(result)


def test_accuracy_of_a_file_needs_the_file(result):
    result["models"][3]["accuracy_of"] = "file"
    with pytest.raises(ValueError, match="expected 'keras model'"):
        complete_result(result)


def test_not_a_dict():
    with pytest.raises(TypeError, match="received list"):
        complete_result([])
