"""What is changed about a model for its file: masks of large numbers in calibrated files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_kd as kd
from keras_kd.export.tracing import masks_in_range
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

WIDTH = 16
X = np.random.default_rng(0).normal(size=(64, 6, WIDTH)).astype("float32")


class Causal(layers.Layer):
    """Causal attention in code of its own, with the operation of Keras."""

    def call(self, x):
        heads = ops.expand_dims(x, 2)
        return ops.dot_product_attention(heads, heads, heads, is_causal=True)[:, :, 0]


def multi_head(x):
    attention = layers.MultiHeadAttention(2, WIDTH)
    outputs = attention(x, x, use_causal_mask=True)
    for layer in (attention.query_dense, attention.key_dense):  # so that it selects
        layer.kernel.assign(2.0 * layer.kernel)
    return outputs


@pytest.mark.fast_cases("False-<lambda>")
@pytest.mark.parametrize("attention", [multi_head, lambda x: Causal()(x)])
@pytest.mark.parametrize("aware", [False, True])
def test_a_mask_leaves_the_scores_their_steps_in_a_calibrated_file(attention, aware, tmp_path):
    keras.utils.set_random_seed(0)
    given = keras.Input((6, WIDTH))
    model = keras.Model(given, layers.Dense(4)(attention(given)))
    expected, student = model.predict(X, verbose=0), model
    if aware:
        distiller = kd.Distiller(None, model, [], student_loss_weight=1.0)
        distiller.compile("sgd", "mse")
        data = (X, np.zeros((64, 6, 4), "float32"))
        stage = kd.QuantizeAware(epochs=0)
        student = kd.compress(distiller, data, stages=[stage], verbose=0)
    path = kd.export_tflite(student, tmp_path / "a.tflite", "int8", X, verbose=False)
    file = ModelFile(path.read_bytes())
    assert not file.float_operators()
    runtime = LiteRuntime(path)
    name = runtime.inputs[0].name
    outputs = runtime.predict({name: X})[next(iter(runtime.output_names))]
    error = np.sqrt(np.mean(np.square(outputs - expected))) / expected.std()
    assert error < 0.05
    changed = np.concatenate([X[:, :3], X[::-1, 3:]], 1)
    after = runtime.predict({name: changed})[runtime.output_names[0]]
    last = file.output_operator(0, through=())
    scale = np.ravel(file.describe_tensor(0, last.input_indices[0])["scale"])[0]
    steps = np.abs(outputs - after) / scale
    assert steps[:, :3].max() < 2.1 and steps[:, 3:].max() > 20


def test_other_formats_keep_the_mask(tmp_path):
    given = keras.Input((6, WIDTH))
    model = keras.Model(given, multi_head(given))
    path = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    assert "REDUCE_MIN" not in ModelFile(path.read_bytes()).operator_counts()
    runtime = LiteRuntime(path)
    outputs = runtime.predict({runtime.inputs[0].name: X})[runtime.output_names[0]]
    np.testing.assert_allclose(outputs, model.predict(X, verbose=0), atol=1e-5)


@pytest.mark.parametrize("number, expected", [(-1e9, -11.0), (1e9, 1e9), (-100.0, -100.0)])
@pytest.mark.parametrize("last", [True, False])
def test_only_large_negative_numbers_are_masks(number, expected, last):
    x, mask = tf.constant([[1.0, -3.0, 2.0]]), tf.constant([[True, True, False]])

    @tf.function
    def select():
        with masks_in_range():
            return tf.where(mask, x, number) if last else tf.where(~mask, number, x)

    np.testing.assert_allclose(select(), [[1.0, -3.0, expected]])


@pytest.mark.parametrize("axis", [1, 2, (1, 2)])
def test_a_maximum_leaves_masked_numbers_out_along_every_axis(axis):
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("float32")
    mask = np.ones(x.shape, bool)
    mask[:, 3:], mask[:, :, 4:] = False, False
    x[~mask] = 50.0

    @tf.function
    def largest():
        with masks_in_range():
            return tf.reduce_max(tf.where(mask, x, -1e9), axis)

    expected, given = np.where(mask, x, -1e9).max(axis), largest().numpy()
    np.testing.assert_array_equal(given[expected > -1e8], expected[expected > -1e8])
    assert (given[expected < -1e8] < -8.0).all()  # less than the sample's smallest number


def test_the_int8_file_of_a_maximum_over_unmasked_steps(tmp_path):
    x, known = keras.Input((6, 4), name="x"), keras.Input((6,), name="known")
    kept = keras.ops.where(keras.ops.expand_dims(known > 0, -1), x, -1e9)
    model = keras.Model([x, known], keras.ops.max(kept, axis=1))
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(64, 6, 4)).astype("float32")}
    data["known"] = (np.arange(6) < rng.integers(2, 7, (64, 1))).astype("float32")
    data["x"][data["known"] == 0] = 9.0
    path = kd.export_tflite(
        model, tmp_path / "a.tflite", "int8", data, calibration="minmax", verbose=False
    )
    (given,) = LiteRuntime(path).predict(data).values()
    np.testing.assert_allclose(given, model([data["x"], data["known"]]), atol=0.1)
