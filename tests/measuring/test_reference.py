from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.measuring.answers import places_in_tuple

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


@pytest.fixture(scope="module")
def two_heads() -> keras.Model:
    keras.utils.set_random_seed(1)
    z, a = keras.Input((4,), name="zz"), keras.Input((4,), name="aa")
    return keras.Model([z, a], [layers.Dense(3, name="zout")(z), layers.Dense(3, name="aout")(a)])


@pytest.fixture(scope="module")
def foreign_file(two_heads, tmp_path_factory):
    import tensorflow as tf

    path = tmp_path_factory.mktemp("foreign") / "two.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(two_heads).convert())
    return path


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("name", ["output_0", "output_1"])
def test_tuples_are_in_the_models_order_in_files_of_another_converter(
    two_heads, foreign_file, name, with_model
):
    arrays = X, X[::-1].copy()
    labels = tuple(np.asarray(output).argmax(-1) for output in two_heads(arrays))
    inputs = arrays if with_model else dict(zip(("zz", "aa"), arrays, strict=True))
    result = kd.evaluate_tflite(
        foreign_file,
        (inputs, labels),
        two_heads if with_model else None,
        output=name,
        runs=1,
        warmup=0,
        verbose=False,
    )
    assert result.accuracy == 1.0
    assert result.agreement == (1.0 if with_model else None)
    if with_model:
        assert result.max_difference < 1e-5


@pytest.mark.parametrize("with_model", [False, True])
def test_lists_of_metrics_in_another_order_are_refused(two_heads, foreign_file, with_model):
    data = (dict(zip(("zz", "aa"), (X, X), strict=True)), tuple(np.asarray(two_heads([X, X]))))
    model = two_heads if with_model else None
    given = {"model": model, "task": "regression", "runs": 1, "verbose": False}
    ordered = list(kd.evaluate_tflite(foreign_file, data, metrics=None, **given).outputs)
    names = [output["name"] for output in ordered]
    asked = {"output_0": ["mse"], "output_1": ["mae"]}
    values = kd.evaluate_tflite(foreign_file, data, metrics=asked, **given).metrics
    assert set(values) == {"output_0_mse", "output_1_mae"}
    assert max(values.values()) < 1e-4
    if names == sorted(names):
        pytest.skip("this converter keeps the order")
    with pytest.raises(ValueError, match="as dicts by output"):
        kd.evaluate_tflite(foreign_file, data, metrics=[["mse"], ["mae"]], **given)


def test_one_output_of_another_name_is_the_one_that_is_left(two_heads, tmp_path):
    path = kd.export_tflite(two_heads, tmp_path / "a.tflite", verbose=False)
    zout, aout = two_heads.outputs
    renamed = layers.Activation("linear", name="new")(zout)
    model = keras.Model(two_heads.inputs, [aout, renamed])
    for output in ("zout", "aout"):
        compared = kd.compare(path, (X, X), model, output=output, verbose=False)
        assert compared.agreement == 1.0 and compared.max_difference < 1e-5


def test_several_outputs_of_other_names_are_refused(tmp_path):
    i = keras.Input((4,))
    heads = [layers.Dense(3, name=name)(i) for name in "abc"]
    path = kd.export_tflite(keras.Model(i, heads), tmp_path / "a.tflite", verbose=False)
    others = [layers.Activation("linear", name=f"new_{k}")(heads[k]) for k in (1, 2)]
    with pytest.raises(ValueError, match=r"\['new_1', 'new_2'\] of `model` have other names"):
        kd.compare(path, X, keras.Model(i, [heads[0], *others]), verbose=False)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["output_1", "output_0"], [1, 0]),
        (["Identity_2", "Identity", "Identity_1"], [2, 0, 1]),
        (["StatefulPartitionedCall:1", "StatefulPartitionedCall:0"], [1, 0]),
        (["b", "a"], [0, 1]),
        (["conv_3", "conv_1"], [0, 1]),
        (["a_1", "b_0"], [0, 1]),
        (["output_0"], [0]),
    ],
)
def test_numbers_of_outputs_tell_their_places(names, places):
    assert places_in_tuple(names) == places
