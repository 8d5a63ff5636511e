from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.signatures import call_target, check_signatures
from keras_kd.litert.constants import count_constants
from keras_kd.litert.metadata import read_metadata
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

IMAGES = np.random.default_rng(0).random((40, 10, 10, 1), np.float32)


def cnn() -> keras.Model:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
        ],
        name="backbone",
    )
    i = keras.Input((10, 10, 1), name="image")
    return keras.Model(i, layers.Dense(4, name="logits")(layers.Dropout(0.5)(inner(i))))


def runner(path, name):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = interpreter.get_signature_runner(name)
    return lambda **inputs: signature(**inputs)


@pytest.mark.fast_cases("int8")
@pytest.mark.parametrize("quantization", ["float32", "int8", "int4"])
def test_answers_and_embeddings_from_one_file(tmp_path, quantization):
    model = cnn()
    pool = keras.Model(model.get_layer("backbone").inputs, model.get_layer("backbone").outputs)

    def normalized(x):
        features = model.get_layer("backbone")(x)
        return {"unit": features / keras.ops.sqrt(keras.ops.sum(features**2, -1, keepdims=True))}

    # The converter sorts signatures by name: the first one here is not the first of these.
    path = kd.export_tflite(
        model,
        tmp_path / "a.tflite",
        quantization,
        representative_data=IMAGES,
        signatures={
            "serving_default": None,
            "embed": "backbone/pool",
            "both": ["logits", "backbone"],
            **({"a_function": normalized} if quantization == "float32" else {}),
        },
        batch_size={"both": 3},
        verbose=False,
    )
    tolerance = {"float32": 1e-5, "int8": 0.03, "int4": 0.2}[quantization]
    logits, features = model(IMAGES, training=False).numpy(), pool(IMAGES).numpy()

    def check(given, wanted):
        np.testing.assert_allclose(given, wanted, atol=tolerance * np.abs(wanted).max())

    # A runtime which knows no signatures runs the first one.
    check(next(iter(LiteRuntime(path).predict({"image": IMAGES}).values())), logits)
    check(runner(path, "serving_default")(image=IMAGES[:7])["logits"], logits[:7])
    check(runner(path, "embed")(image=IMAGES[:5])["backbone_pool"], features[:5])
    both = runner(path, "both")(image=IMAGES[:3])
    check(both["logits"], logits[:3])
    check(both["backbone"], features[:3])
    described = read_metadata(path)["signatures"]
    shapes = {name: ends["outputs"][0]["shape"] for name, ends in described.items()}
    assert shapes["serving_default"] == [None, 4]
    assert shapes["embed"] == [None, 16]
    assert shapes["both"] == [3, 4]
    assert list(described)[:3] == ["serving_default", "embed", "both"]
    if quantization == "float32":
        unit = runner(path, "a_function")(image=IMAGES[:2])["unit"]
        check(np.linalg.norm(unit, axis=-1), np.ones(2))
        # The weights are there once.
        assert (
            count_constants(ModelFile(path.read_bytes())).types["FLOAT32"]
            < 1.1 * 9 * 16 + 5 * 16 + 8
        )


def test_no_signatures_is_the_default_one():
    assert check_signatures(None) == {"serving_default": None}
    with pytest.raises(ValueError, match="must be a dict"):
        check_signatures(["features"])
    with pytest.raises(ValueError, match="must be a dict"):
        check_signatures({})


def test_a_function_must_return_tensors():
    with pytest.raises(ValueError, match="must return a tensor"):
        call_target(cnn(), lambda x: "text", IMAGES[:1])


def test_a_model_which_writes_itself_has_one_signature(tmp_path):
    class Written:
        quantization_aware = True

        def write_saved_model(self, folder):
            raise AssertionError("not reached")

    with pytest.raises(ValueError, match="`signatures` needs a Keras 3 model"):
        kd.export_tflite(Written(), tmp_path / "a.tflite", signatures={"features": "pool"})
