"""Every form of file of a model, measured on the same data."""

import keras
import numpy as np
import pytest

import keras_kd as kd


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(64, "relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name="small")


def test_all_forms_in_one_table(model, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    y = model(x).numpy().argmax(-1)
    found = kd.export_all(
        model,
        tmp_path,
        (x, y),
        quantizations=["float32", "float16", "int8", "int16x8"],
        representative_data=x,
        rounds=5,
        verbose=False,
    )
    assert found["float32"].result.accuracy == found["float32"].result.agreement == 1.0
    assert found["float32"].latency_ratio == 1.0
    for file in found.files:
        path = tmp_path / f"small_{file.quantization}.tflite"
        assert path.stat().st_size == file.result.bytes
        assert file.latency_ratio > 0
    assert found["float16"].result.bytes < found["float32"].result.bytes
    assert f"{found['int8'].result.bytes:,}" in str(found)
    assert found.to_dict()["int8"]["result"]["bytes"] == found["int8"].result.bytes
    with pytest.raises(KeyError):
        found["dynamic"]


def test_a_form_that_is_refused_is_reported(model, tmp_path):
    x = np.zeros((4, 8), "float32")
    found = kd.export_all(
        model, tmp_path, x, quantizations=["int8", "float32"], rounds=2, verbose=False
    )
    assert found["int8"].result is None and "representative_data" in found["int8"].refused
    assert str(found).splitlines()[-1].startswith("int8: ")
    assert found["float32"].latency_ratio == 1.0
    with pytest.raises(ValueError, match="representative_data"):
        kd.export_all(model, tmp_path, x, quantizations="int8", verbose=False)
    with pytest.raises(ValueError, match="Did you mean 'float32'"):
        kd.export_all(model, tmp_path, x, quantizations=["flaot32"])


def test_data_that_are_read_once_are_enough_for_one_form_alone(model, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
    given = {"quantizations": ["int8", "int16x8"], "rounds": 2, "verbose": False}
    with pytest.raises(ValueError, match="`data` is needed several times"):
        kd.export_all(model, tmp_path, iter([x]), **given)
    with pytest.raises(ValueError, match="`representative_data` is needed several times"):
        kd.export_all(model, tmp_path, x, representative_data=iter([x]), **given)
    assert not list(tmp_path.iterdir())
    given["quantizations"] = "int8"
    found = kd.export_all(model, tmp_path, iter([x]), representative_data=iter([x]), **given)
    assert found["int8"].result.samples == 40
