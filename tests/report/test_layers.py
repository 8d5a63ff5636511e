from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.constants import stored_tensors
from keras_kd.litert.metadata import open_file
from keras_kd.report.layers import layer_results


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.DepthwiseConv2D(3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
        ],
        name="inside",
    )
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 1, name="conv")(image)
    x = keras.layers.ReLU(name="relu")(inner(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    built = keras.Model(image, keras.layers.Dense(10, name="logits")(x), name="net")
    # Numbers that occur once: equal constants, as biases of zero, are stored once.
    rng = np.random.default_rng(0)
    built.set_weights([rng.uniform(0.5, 1.5, w.shape).astype("float32") for w in built.weights])
    kernel, bias = built.get_layer("logits").get_weights()
    kernel[:, :5] = 0.0
    built.get_layer("logits").set_weights([kernel, bias])
    return built


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    for quantization in ("float32", "float16", "int8"):
        export_tflite(
            model,
            folder / f"{quantization}.tflite",
            quantization=quantization,
            representative_data=data if quantization == "int8" else None,
            verbose=False,
        )
    return folder


@pytest.mark.parametrize(("quantization", "bits"), [("float32", 32), ("float16", 16), ("int8", 8)])
def test_kernels_are_found_in_the_file(model, files, quantization, bits):
    file = files / f"{quantization}.tflite"
    kernels = {
        tensor.elements: tensor
        for tensor in stored_tensors(open_file(file))
        if tensor.axes >= 2 and tensor.zeros is not None
    }
    assert kernels[40].bits == bits and kernels[40].zeros == 20  # logits: half of it is zero
    layers, other = layer_results(model, file)
    by_name = {layer["name"]: layer for layer in layers}
    bias = 2 if quantization == "float16" else 4
    # A layer inside another model is not taken for one that has the same name.
    assert by_name["conv"]["bytes"] == 12 * bits // 8 + 4 * bias
    assert by_name["inside/conv"]["bytes"] == 36 * bits // 8 + 4 * bias  # with the norm folded in
    assert by_name["inside/norm"]["bytes"] == 0
    assert by_name["logits"]["bytes"] == 40 * bits // 8 + 10 * bias
    assert by_name["logits"]["bits"] == bits and by_name["logits"]["sparsity"] == 0.5
    assert by_name["inside/conv"]["bits"] == bits
    assert sum(layer["bytes"] for layer in layers) + other == file.stat().st_size


def test_without_a_file(model):
    layers, other = layer_results(model)
    assert other is None
    by_name = {layer["name"]: layer for layer in layers}
    assert by_name["logits"]["sparsity"] == 0.5 and by_name["logits"]["bytes"] is None
    assert by_name["relu"]["sparsity"] is None and by_name["relu"]["parameters"] == 0


def test_a_file_that_is_not_there(model, tmp_path):
    with pytest.raises(OSError):
        layer_results(model, tmp_path / "none.tflite")
