import gc

import keras
import numpy as np
import pytest

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.origin import origin, remember_origin
from keras_kd.measuring.compare import compare
from keras_kd.measuring.evaluate import evaluate_tflite


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def test_agreement_is_measured_with_the_model_that_was_exported(tmp_path):
    model, path = network(), tmp_path / "model.tflite"
    export_tflite(model, path, verbose=False)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    result = evaluate_tflite(path, x, runs=1)
    assert result.agreement == 1.0
    assert result.max_difference < 1e-5


@pytest.mark.fast_cases("wide")
@pytest.mark.parametrize("target", ["logits", "wide", lambda x: 2 * x])
def test_a_file_of_other_outputs_is_not_compared_with_those_of_the_model(tmp_path, target):
    i = keras.Input((3,))
    logits = keras.layers.Dense(3, name="logits")(keras.layers.Dense(8, name="wide")(i))
    model = keras.Model(i, keras.layers.Softmax()(logits))
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    first = {"first": target, "second": None}
    path = export_tflite(model, tmp_path / "a.tflite", signatures=first, verbose=False)
    result = evaluate_tflite(path, x, runs=1, warmup=0)
    assert (result.agreement, result.max_difference) == (None, None)
    with pytest.raises(TypeError, match="first signature"):
        compare(path, x)
    second = dict(reversed(first.items()))
    path = export_tflite(model, tmp_path / "a.tflite", signatures=second, verbose=False)
    assert evaluate_tflite(path, x, runs=1, warmup=0).max_difference < 1e-5


def test_a_model_changed_since_is_not_the_origin(tmp_path):
    model, path = network(), tmp_path / "file"
    path.write_bytes(b"content")
    remember_origin(path, model)
    assert origin(path) is model
    model.set_weights([2 * weight + 1 for weight in model.get_weights()])
    assert origin(path) is None


def test_a_file_changed_since_has_no_origin(tmp_path):
    model, path = network(), tmp_path / "file"
    path.write_bytes(b"content")
    remember_origin(path, model)
    path.write_bytes(b"other content")
    assert origin(path) is None
    assert origin(tmp_path / "never exported") is None


def test_the_model_is_not_kept_alive(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")

    class Model:
        def get_weights(self):
            return [np.ones(3)]

    model = Model()
    remember_origin(path, model)
    assert origin(path) is model
    del model
    gc.collect()
    assert origin(path) is None
