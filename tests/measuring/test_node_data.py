"""Errors of layers as node data for Model Explorer."""

import json

import jsonschema
import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile

X = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")

# As `ModelNodeData`, `GraphNodeData`, `NodeDataResult` and `GradientItem` are documented in
# src/server/package/src/model_explorer/node_data_builder.py of google-ai-edge/model-explorer.
COLOR = {"type": "string", "pattern": "^#[0-9a-f]{6}$"}
RESULT = {
    "type": "object",
    "properties": {"value": {"type": "number"}, "bgColor": COLOR, "textColor": COLOR},
    "required": ["value"],
    "additionalProperties": False,
}
STOP = {
    "type": "object",
    "properties": {
        "stop": {"type": "number", "minimum": 0, "maximum": 1},
        "bgColor": COLOR,
        "textColor": COLOR,
    },
    "required": ["stop"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "properties": {
            "results": {"type": "object", "additionalProperties": RESULT},
            "thresholds": {"type": "array"},
            "gradient": {"type": "array", "items": STOP},
        },
        "required": ["results"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(4, name="logits")(x))
    path = tmp_path_factory.mktemp("files") / "a.tflite"
    kd.export_tflite(model, path, "int8", X, verbose=False)
    return kd.compare(model, path, X, per_layer=True, verbose=False)


@pytest.mark.parametrize("measure", ["relative_error", "signal_to_noise_db"])
def test_every_operator_has_the_error_of_its_layer(comparison, tmp_path, measure):
    path = comparison.write_node_data(tmp_path / "errors.json", measure)
    content = json.loads(path.read_text())
    jsonschema.validate(content, SCHEMA)
    (graph,) = content
    assert graph == "main"  # what Model Explorer calls the first graph of a file
    results, gradient = content[graph]["results"], content[graph]["gradient"]
    assert {stop["stop"] for stop in gradient} >= {0, 1}
    with open(comparison.path, "rb") as file:
        operators = ModelFile(file.read()).graphs()[0].operators
    names = {"conv": "CONV_2D", "pool": "MEAN", "logits": "FULLY_CONNECTED"}
    assert len(results) == len(names)
    for row in comparison.layers:
        assert operators[row.operator].name == names[row.layer]
        assert results[str(row.operator)]["value"] == getattr(row, measure)


def test_without_layers_it_is_refused(comparison, tmp_path):
    import dataclasses

    with pytest.raises(ValueError, match="per_layer=True"):
        dataclasses.replace(comparison, layers=None).write_node_data(tmp_path / "a.json")
    with pytest.raises(ValueError, match="measure='error'"):
        comparison.write_node_data(tmp_path / "a.json", "error")
    assert not list(tmp_path.iterdir())
