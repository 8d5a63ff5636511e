from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_kd as kd
from keras_kd.export import file_checks
from keras_kd.litert.metadata import read_metadata


class Inverse(keras.layers.Layer):
    def call(self, x):
        return tf.linalg.inv(x)


def inverting() -> keras.Model:
    i = keras.Input((4, 4), name="matrix")
    return keras.Model(i, Inverse(name="my_inverse")(i))


def test_flex_is_refused_unless_it_is_allowed(tmp_path):
    with pytest.raises(ValueError, match=r"MatrixInverse \(in .*my_inverse.*`allow_flex=True`"):
        kd.export_tflite(inverting(), tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


def test_an_allowed_flex_file_says_where_it_does_not_run(tmp_path):
    with pytest.warns(UserWarning) as said:
        path = kd.export_tflite(
            inverting(), tmp_path / "a.tflite", allow_flex=True, sparse=True, verbose=False
        )
    sparse, flex = [str(w.message) for w in said if str(w.message).startswith(f"'{tmp_path}")]
    assert "without sparse encoding" in sparse
    assert "FlexMatrixInverse (in " in flex and "my_inverse" in flex
    assert "not in LiteRT for Python" in flex
    found = read_metadata(path)
    assert found["flex_operators"] == ["FlexMatrixInverse"]
    assert found["inputs"][0]["name"] == "matrix"
    interpreter = tf.lite.Interpreter(str(path))
    if not found["was_run"]:  # from TensorFlow 2.20 on
        assert "was not run here" in flex
        with pytest.raises(RuntimeError, match="Flex delegate"):
            interpreter.allocate_tensors()
        return
    matrix = (np.eye(4) + 0.1 * np.arange(16).reshape(4, 4)).astype("float32")[None]
    (inverse,) = interpreter.get_signature_runner()(matrix=matrix).values()
    np.testing.assert_allclose(inverse @ matrix, np.eye(4)[None], atol=1e-4)


def test_flex_is_not_used_where_it_is_not_needed(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = kd.export_tflite(model, tmp_path / "a.tflite", allow_flex=True, verbose=False)
    assert read_metadata(path)["flex_operators"] == []
    assert read_metadata(path)["was_run"] is True


def test_kernels_of_zeros_are_named_where_a_file_does_not_run(tmp_path, monkeypatch):
    def refuse(path, samples):
        raise ValueError(f"LiteRT cannot run '{path}'.")

    image = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3, name="pruned_away", kernel_initializer="zeros")(image)
    x = keras.layers.Conv2D(2, 1, name="kept")(x)
    monkeypatch.setattr(file_checks, "check_file", refuse)
    with pytest.raises(
        ValueError, match=r"All weights are zero in: [^ ]*pruned_away[^ ,]*\. "
    ) as e:
        kd.export_tflite(keras.Model(image, x), tmp_path / "a.tflite", verbose=False)
    assert "kept" not in str(e.value)


def fused_lstm() -> tf_keras.Model:
    return tf_keras.Sequential(
        [tf_keras.Input((4, 16)), tf_keras.layers.LSTM(32), tf_keras.layers.Dense(3)]
    )


def mixed() -> keras.Model:
    i = keras.Input((4, 4, 4, 8))
    z = keras.layers.Flatten()(keras.layers.Conv3D(16, 2, name="conv")(i))
    return keras.Model(i, keras.layers.Dense(8, name="dense")(z))


def tiny() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])


@pytest.mark.fast_cases("tiny-float16-None-True", "tiny-float32-None-True")
@pytest.mark.parametrize(
    ("make", "form", "kept", "smaller"),
    [
        (fused_lstm, "dynamic", "UNIDIRECTIONAL_SEQUENCE_LSTM", False),
        (mixed, "dynamic", "CONV_3D", True),
        (tiny, "dynamic", "FULLY_CONNECTED", False),
        (tiny, "weight_only", "FULLY_CONNECTED", False),
        (fused_lstm, "weight_only", None, True),
        (tiny, "float16", None, True),
        (mixed, "float16", None, True),
        (mixed, "weight_only", None, True),
        (tiny, "float32", None, True),
    ],
)
def test_weights_that_do_not_get_smaller_are_named(tmp_path, recwarn, make, form, kept, smaller):
    kd.export_tflite(make(), tmp_path / "a.tflite", form, verbose=False)
    said = [str(w.message) for w in recwarn if "stores the weights" in str(w.message)]
    assert len(said) == (kept is not None)
    for text in said:
        assert f"the weights of {kept}" in text and "in float" in text
        assert ("No weight has 8 bits" in text) != smaller


def test_layers_that_are_to_stay_in_float_are_not(tmp_path, recwarn):
    kd.export_tflite(tiny(), tmp_path / "a.tflite", "int4", exclude="*", verbose=False)
    assert not [w for w in recwarn if "stores the weights" in str(w.message)]


class Nothing(keras.layers.Layer):
    def call(self, x):
        return x[:, :0]

    def compute_output_shape(self, shape):
        return (shape[0], 0)


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_an_empty_output_is_refused(tmp_path, form):
    i = keras.Input((4,))
    z = keras.layers.Dense(3)(i)
    model = keras.Model(i, {"full": z, "nothing": Nothing()(z)})
    x = np.ones((40, 4), "float32")
    with pytest.raises(ValueError, match=r"'nothing' is empty.*shape \(None, 0\)"):
        kd.export_tflite(model, tmp_path / "a.tflite", form, x, verbose=False)
    assert list(tmp_path.iterdir()) == []
