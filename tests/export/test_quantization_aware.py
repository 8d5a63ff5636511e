"""Files of students that were trained for 8 bits."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd


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


def test_without_quantize_aware_such_a_layer_runs(tmp_path):
    i = keras.Input((8, 1))
    model = keras.Model(i, layers.Dense(2)(normalized_over_one(i)))
    x = np.random.default_rng(0).normal(size=(40, 8, 1)).astype("float32")
    for quantization in ("int8", "int16x8"):
        path = tmp_path / f"{quantization}.tflite"
        kd.export_tflite(model, path, quantization, representative_data=x, verbose=False)


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
