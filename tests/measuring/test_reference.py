from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((4,), name="x")
    return keras.Model(i, layers.Dense(4, name="last")(layers.Dense(4, name="inner")(i)))


def inner_of(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, model.get_layer("inner").output)


def measured(measure, path, model) -> float:
    options = {"runs": 1, "warmup": 0} if measure is kd.evaluate_tflite else {}
    return measure(path, X, model, verbose=False, **options).max_difference


@pytest.mark.parametrize("target", ["inner", "function"])
@pytest.mark.parametrize("measure", [kd.evaluate_tflite, kd.compare])
def test_a_model_of_another_signature_is_refused(tmp_path, model, measure, target):
    inner = inner_of(model)
    signatures = {"hidden": target if target == "inner" else inner, "serving_default": None}
    path = kd.export_tflite(model, tmp_path / "a.tflite", signatures=signatures, verbose=False)
    with pytest.raises(ValueError, match=r"signature 'serving_default'.* signature, 'hidden'"):
        measured(measure, path, model)
    assert measured(measure, path, inner) < 1e-5


def test_outputs_of_inner_layers_are_told(tmp_path, model):
    path = tmp_path / "a.tflite"
    kd.export_tflite(model, path, signatures={"hidden": "inner"}, verbose=False)
    with pytest.warns(UserWarning, match=r"outputs of the layers \['inner'\].*\['last'\]"):
        measured(kd.compare, path, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert measured(kd.compare, path, inner_of(model)) < 1e-5


def test_a_model_with_other_names_is_compared_by_position(tmp_path, model, recwarn):
    path = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    named = keras.Model(model.inputs, {"answers": model.output})
    assert measured(kd.compare, path, named) < 1e-5
    assert not [w for w in recwarn if "compared with the outputs" in str(w.message)]
