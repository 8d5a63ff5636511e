"""Biases lie on the grid of the int8 file: the file then computes exactly as the model."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


def norm(x, **arguments):
    random = keras.initializers.RandomUniform(0.5, 1.5)
    return layers.BatchNormalization(
        gamma_initializer=random,
        beta_initializer=random,
        moving_mean_initializer=random,
        moving_variance_initializer=random,
        **arguments,
    )(x)


def biased(kind, *arguments, **named):
    return kind(*arguments, bias_initializer=keras.initializers.RandomNormal(stddev=0.3), **named)


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(norm(layers.Conv2D(8, 3, use_bias=False)(image)))
    x = layers.ReLU()(norm(biased(layers.DepthwiseConv2D, 3)(x), center=False))
    x = norm(biased(layers.Conv2D, 8, 1, activation="relu")(x), scale=False)  # does not fold
    x = biased(layers.SeparableConv2D, 8, 3)(x)
    x = biased(layers.Conv2DTranspose, 8, 2)(x)
    x = layers.Reshape((9, 8))(x)
    x = biased(layers.EinsumDense, "abc,cd->abd", (9, 8), bias_axes="d")(x)
    return keras.Model(image, biased(layers.Dense, 4)(layers.Flatten()(x)))


def quantized(student, **arguments):
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", "mse")
    stage = kd.QuantizeAware(**{"epochs": 0, **arguments})
    labels = np.zeros((len(X), *student.output_shape[1:]), "float32")
    return kd.compress(distiller, (X, labels), stages=[stage], verbose=0)


@pytest.fixture(scope="module")
def result():
    return quantized(network())


@pytest.mark.promise
def test_the_file_computes_exactly_as_the_model(result, tmp_path):
    path = kd.export_tflite(result, tmp_path / "a.tflite", "int8", verbose=False)
    runtime, file = LiteRuntime(path), ModelFile(path.read_bytes())
    assert not file.float_operators()
    outputs = runtime.predict({runtime.inputs[0].name: X})[runtime.output_names[0]]
    last = file.output_operator(0, through=())
    scale = np.ravel(file.describe_tensor(0, last.input_indices[0])["scale"])[0]
    assert (np.abs(outputs - result.predict(X)) > 0.5 * scale).mean() < 0.01


@pytest.mark.promise
def test_a_bias_is_a_whole_number_of_steps_of_the_file(result, tmp_path):
    path = kd.export_tflite(result, tmp_path / "a.tflite", "int8", verbose=False)
    file = ModelFile(path.read_bytes())
    (dense,) = [o for o in file.operators() if o.name == "FULLY_CONNECTED"][-1:]
    stored = file.tensor(0, dense.input_indices[2])
    integers = stored.data.view("int32")
    assert np.abs(integers).min() > 10
    bias = np.asarray(result.model.layers[-1].bias, "float64")
    np.testing.assert_allclose(bias / np.array(stored.scales), integers, atol=0.01)


@pytest.mark.promise
def test_a_kernel_of_4_bits_has_a_bias_on_the_grid_of_the_int8_file(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    outputs = biased(layers.Dense, 64, name="wide")(layers.Flatten()(image))
    result = quantized(keras.Model(image, outputs), weight_bits=4)
    bias = np.asarray(result.model.get_layer("wide").bias)
    for form, kind in (("int8", "INT32"), ("int4", "FLOAT32")):
        path = kd.export_tflite(result, tmp_path / f"{form}.tflite", form, verbose=False)
        file = ModelFile(path.read_bytes())
        (dense,) = [o for o in file.operators() if o.name == "FULLY_CONNECTED"]
        kernel, stored = (file.tensor(0, i) for i in dense.input_indices[1:3])
        assert (kernel.kind, stored.kind) == (form.upper(), kind)
        if form == "int4":
            np.testing.assert_array_equal(stored.data.view("float32"), bias)
        else:
            steps = bias.astype("float64") / np.array(stored.scales)
            np.testing.assert_allclose(steps, stored.data.view("int32"), atol=0.02)


def test_biases_move_by_less_than_a_step():
    before, after = network(), quantized(network()).model
    moved = 0.0
    for old, new in zip(before.weights, after.weights, strict=True):
        if new.name in ("bias", "beta", "moving_mean"):
            moved = max(moved, float(np.abs(np.asarray(old) - np.asarray(new)).max()))
    assert 0.0 < moved < 5e-3


def test_a_file_with_activations_of_16_bits_keeps_its_biases():
    before, after = network(), quantized(network(), activation_bits=16).model
    for old, new in zip(before.weights, after.weights, strict=True):
        if new.name in ("bias", "beta", "moving_mean"):
            np.testing.assert_array_equal(old, new)
