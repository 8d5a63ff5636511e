import json
import pathlib

import pytest

import keras_kd.report
from keras_kd.report import complete_result, schema

FORM = pathlib.Path(keras_kd.report.__file__).with_name("templates") / "report.schema.json"


@pytest.fixture(scope="module")
def form():
    return json.loads(FORM.read_text(encoding="utf-8"))


def test_the_documentation_has_the_form_that_is_checked():
    copy = pathlib.Path(__file__).parents[2] / "docs" / "report.schema.json"
    assert copy.read_bytes() == FORM.read_bytes()


def test_every_key_is_described(form):
    parts = [form, *form["$defs"].values()]
    assert len(parts) >= 12
    for part in parts:
        assert part["description"]
        assert all(entry["description"] for entry in part["properties"].values())
        assert set(part["required"]) <= set(part["properties"])


def test_a_completed_result_has_the_form(result):
    import jsonschema

    jsonschema.validate(complete_result(result), json.loads(FORM.read_text()))


def test_types(form):
    assert form["properties"]["schema_version"]["const"] == schema.SCHEMA_VERSION
    assert form["$defs"]["FileResult"]["properties"]["agreement"]["type"] == ["number", "null"]
    assert form["$defs"]["ModelResult"]["properties"]["file"]["anyOf"] == [
        {"$ref": "#/$defs/FileResult"},
        {"type": "null"},
    ]
    assert form["$defs"]["Curve"]["properties"]["series"]["additionalProperties"] == {
        "type": "array",
        "items": {"type": ["number", "null"]},
    }
    assert form["$defs"]["ModelResult"]["properties"]["accuracy_of"]["enum"] == [
        "file",
        "keras model",
    ]


def test_what_is_derived_is_always_there(form):
    assert {"headline", "pareto_fronts", "schema_version"} <= set(form["required"])
    assert "accuracy" in form["$defs"]["ModelResult"]["required"]
    assert "runs" not in form["required"]


def test_missing_keys_and_wrong_types_are_all_named_at_once(result):
    del result["seeds"]
    del result["models"][1]["parameters"]
    del result["models"][4]["file"]["operators"]
    del result["models"][0]["curves"][0]["series"]
    result["models"][4]["layers"][2]["bits"] = "eight"
    result["models"][0]["file"]["bytes"] = None
    with pytest.raises(ValueError) as error:
        complete_result(result)
    message = str(error.value)
    assert "result has no 'seeds'" in message
    assert "result['models'][1] has no 'parameters'" in message
    assert "result['models'][4]['file'] has no 'operators'" in message
    assert "result['models'][0]['curves'][0] has no 'series'" in message
    assert "result['models'][4]['layers'][2]['bits'] is str, expected an integer" in message
    assert "result['models'][0]['file']['bytes'] is null, expected an integer" in message


def test_of_many_problems_some_are_named(result):
    result["models"] = [{} for _ in range(40)]
    with pytest.raises(ValueError, match="and 28 more"):
        complete_result(result)


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


def test_an_accuracy_in_percent_is_refused(result):
    result["models"][3]["seeds"]["1"]["accuracy"] = 93.1
    with pytest.raises(ValueError, match=r"is 93.1, expected a fraction between 0 and 1"):
        complete_result(result)


def test_confusion_fits_the_classes(result):
    result["models"][0]["confusion"].append([0, 0, 0])
    result["models"][4]["confusion"] = [[1, 2], [3, 4]]
    with pytest.raises(ValueError) as error:
        complete_result(result)
    assert "result['models'][0]['confusion'] is not square" in str(error.value)
    assert "has 2 rows, but result['classes'] has 3 names" in str(error.value)


def test_true_is_no_number(result):
    result["models"][0]["parameters"] = True
    with pytest.raises(ValueError, match=r"'parameters'.* is bool, expected an integer"):
        complete_result(result)


def test_not_a_dict():
    with pytest.raises(TypeError, match="Received: list"):
        complete_result([])
