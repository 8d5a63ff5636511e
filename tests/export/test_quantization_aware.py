"""Files of students that were trained for 8 bits."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.litert.runtime import LiteRuntime


def compressed(shape, make, **arguments):
    def network():
        i = keras.Input(shape)
        return keras.Model(i, layers.Dense(2)(make(i)))

    x = np.random.default_rng(0).normal(size=(24, *shape)).astype("float32")
    distiller = kd.Distiller(network(), network(), kd.losses.KLDivergence(4.0))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.zeros(24, "int64")
    return kd.compress(
        distiller, (x, y), stages=[kd.QuantizeAware(epochs=0, **arguments)], verbose=0
    ), x


def normalized_over_one(i):
    return layers.GlobalAveragePooling1D()(
        layers.LayerNormalization(name="norm", epsilon=1e-6)(i) + i
    )


@pytest.mark.promise
def test_a_normalization_over_an_axis_of_one_runs(tmp_path):
    student, x = compressed((8, 1), normalized_over_one)
    for data in (None, x):
        path = kd.export_tflite(
            student, tmp_path / "a.tflite", "int8", representative_data=data, verbose=False
        )
        assert kd.compare(student, path, x, verbose=False).agreement == 1.0


@pytest.mark.promise
def test_without_quantize_aware_such_a_layer_runs(tmp_path):
    i = keras.Input((8, 1))
    model = keras.Model(i, layers.Dense(2)(normalized_over_one(i)))
    x = np.random.default_rng(0).normal(size=(40, 8, 1)).astype("float32")
    for quantization in ("int8", "int16x8"):
        path = tmp_path / f"{quantization}.tflite"
        kd.export_tflite(model, path, quantization, representative_data=x, verbose=False)


@pytest.mark.promise
def test_a_converter_of_ones_own_writes_integers_from_the_saved_model(tmp_path):
    student, x = compressed((8, 8, 3), small_convolutions)
    student.write_saved_model(tmp_path / "saved")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    (served,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(served, student.predict(x), atol=1e-6)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (tmp_path / "theirs.tflite").write_bytes(converter.convert())
    ours = kd.export_tflite(student, tmp_path / "a.tflite", "int8", integer_io=True, verbose=False)
    results = []
    for path in (tmp_path / "theirs.tflite", ours):
        runtime = LiteRuntime(path)
        (given,), (end,) = runtime.describe_tensors()
        assert given["dtype"] == end["dtype"] == "int8"
        results.append(next(iter(runtime.predict({given["name"]: x}).values())))
        assert np.abs(results[-1] - student.predict(x)).max() < 1.01 * end["scale"]
    np.testing.assert_array_equal(*results)


def small_convolutions(i):
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(i)))
    return layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))


def small_network(i):
    x = layers.Conv2D(8, 3, activation="relu")(i)
    return layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ({}, "int16x8"),
        ({"activation_bits": 16}, "int16x8"),
        ({"activation_bits": 16}, "int8"),
        ({"weight_bits": 4}, "float16"),
    ],
)
@pytest.mark.promise
def test_other_formats_hold_the_trained_weights(tmp_path, arguments, form):
    student, x = compressed((8, 8, 1), small_network, **arguments)
    if form != "float16":
        with pytest.raises(ValueError, match="representative_data"):
            kd.export_tflite(student, tmp_path / "a.tflite", form, verbose=False)
    path = kd.export_tflite(
        student, tmp_path / "a.tflite", form, representative_data=x, verbose=False
    )
    assert kd.compare(student, path, x, verbose=False).agreement > 0.9


@pytest.mark.slow
def test_loading_and_exporting_print_nothing_of_autograph(tmp_path):
    student, x = compressed((8, 8, 3), lambda i: layers.Flatten()(layers.Conv2D(2, 3)(i)))
    student.save(tmp_path / "student.keras")
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy, keras_kd as kd; path = sys.argv[1]; "
        "kd.export_tflite(kd.load_compressed(path + '/student.keras'), path + '/a.tflite', 'int8', "
        "representative_data=numpy.load(path + '/x.npy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "AutoGraph" not in done.stdout + done.stderr


def test_weights_trained_for_8_bits_are_not_stored_in_4_without_a_word(tmp_path):
    student, _ = compressed((8,), lambda i: layers.Dense(200)(i))
    with pytest.warns(UserWarning, match="weight_bits=4"):
        kd.export_tflite(student, tmp_path / "a.tflite", "int4", verbose=False)
