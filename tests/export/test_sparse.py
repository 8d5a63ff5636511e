from __future__ import annotations

import pathlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.sparse import encodable, encode_sparse
from keras_kd.litert.constants import count_constants
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime

IMAGES = np.random.default_rng(0).random((40, 10, 10, 3), np.float32)


def pruned(model: keras.Model, sparsity: float = 0.9) -> keras.Model:
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights[:1]:
            zero = generator.random(weight.shape) < sparsity
            weight.assign(np.where(zero, 0, weight.numpy()))
    return model


def convolutions() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(32, 3, activation="relu")(i)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    return pruned(keras.Model(i, layers.GlobalAveragePooling2D()(x)))


def dense(sparsity: float = 0.9) -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((64,), name="x")
    x = layers.Dense(64)(layers.Dense(128, activation="relu")(i))
    return pruned(keras.Model(i, x), sparsity)


def both(model, folder: pathlib.Path, quantization: str, data) -> tuple[bytes, bytes]:
    arguments = {"representative_data": data, "verbose": False}
    kd.export_tflite(model, folder / "dense.tflite", quantization, **arguments)
    kd.export_tflite(model, folder / "sparse.tflite", quantization, sparse=True, **arguments)
    return (folder / "dense.tflite").read_bytes(), (folder / "sparse.tflite").read_bytes()


@pytest.mark.fast_cases("int8")
@pytest.mark.parametrize("quantization", ["float32", "float16", "int8"])
def test_convolutions_are_smaller_and_compute_the_same(tmp_path, quantization):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole, small = both(convolutions(), tmp_path, quantization, IMAGES)
    assert len(small) < (0.75 if quantization == "int8" else 0.45) * len(whole)
    constants, wanted = count_constants(ModelFile(small)), count_constants(ModelFile(whole))
    assert constants.sparse_tensors == 2
    assert (constants.elements, constants.zeros) == (wanted.elements, wanted.zeros)
    outputs = [
        LiteRuntime(tmp_path / f"{name}.tflite").predict({"image": IMAGES})
        for name in ("dense", "sparse")
    ]
    for name, values in outputs[0].items():
        np.testing.assert_allclose(outputs[1][name], values, atol=1e-6)


@pytest.mark.promise
def test_what_the_delegate_cannot_run_stays_dense(tmp_path):
    model = convolutions()
    model = pruned(keras.Model(model.input, layers.Dense(128, name="head")(model.output)))
    with pytest.warns(
        UserWarning, match=r"stores the weights of FULLY_CONNECTED \(INT8\) densely"
    ) as said:
        whole, small = both(model, tmp_path, "int8", IMAGES)
    assert len([w for w in said if "densely" in str(w.message)]) == 1
    assert count_constants(ModelFile(small)).sparse_tensors == 2
    assert len(small) < len(whole)


@pytest.mark.parametrize(
    ("quantization", "sparsity", "reason"),
    [
        ("dynamic", 0.9, r"the weights of FULLY_CONNECTED \(INT8\) densely .*FULLY_CONNECTED node"),
        ("float32", 0.0, "no weight has enough zeros"),
    ],
)
def test_a_file_is_left_dense_where_nothing_is_won(tmp_path, quantization, sparsity, reason):
    with pytest.warns(UserWarning, match=reason):
        whole, small = both(dense(sparsity), tmp_path, quantization, None)
    assert small == whole


@pytest.mark.promise
def test_embeddings_in_float16_stay_dense_and_the_rest_does_not(tmp_path):
    # XNNPACK would give the embedding of memory that nobody has written.
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), name="words", dtype="int32")
    x = layers.Flatten()(layers.Embedding(200, 32)(i))
    model = pruned(keras.Model(i, layers.Dense(32)(x)))
    words = np.random.default_rng(0).integers(0, 200, (20, 6)).astype("int32")
    path = kd.export_tflite(model, tmp_path / "a.tflite", "float16", sparse=True, verbose=False)
    content = path.read_bytes()
    assert count_constants(ModelFile(content)).sparse_tensors == 1
    assert encodable(ModelFile(content)) == []
    (given,) = LiteRuntime(path).predict({"words": words}).values()
    np.testing.assert_allclose(given, model(words), atol=2e-3)


def test_what_would_be_computed_wrongly_stays_dense(tmp_path, monkeypatch):
    class Wrong(LiteRuntime):
        def predict(self, inputs):
            outputs = super().predict(inputs)
            wrong = "DENSIFY" in self.file.operator_counts()
            return {name: values + 0.5 * wrong for name, values in outputs.items()}

    monkeypatch.setattr("keras_kd.export.sparse.LiteRuntime", Wrong)
    with pytest.warns(UserWarning, match="with an error of 0.5"):
        whole, small = both(dense(), tmp_path, "float32", None)
    assert small == whole


def test_the_encoding_is_compressed_sparse_rows(tmp_path):
    generator = np.random.default_rng(0)
    i = keras.Input((64,), name="x")
    model = keras.Model(i, layers.Dense(300)(layers.Dense(128, activation="relu")(i)))
    for layer in model.layers[1:]:
        zero = generator.random(layer.kernel.shape) < 0.9
        layer.kernel.assign(np.where(zero, 0, layer.kernel.numpy()))
    content = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False).read_bytes()
    file = ModelFile(content)
    groups = encodable(file)
    assert groups == [("FLOAT32", "FULLY_CONNECTED")]
    encode_sparse(file, [("FLOAT32", "CONV_2D")])
    assert file.packed(keep_names=False) == content
    encode_sparse(file, groups)
    encoded = file.packed()
    assert len(encoded) < 0.25 * len(content)
    before = ModelFile(content).model
    after = ModelFile(encoded).model
    checked = 0
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=False):
        if new.sparsity is None:
            continue
        rows, columns = new.sparsity.dimMetadata
        wanted = np.frombuffer(bytes(before.buffers[old.buffer].data), "<f4").reshape(new.shape)
        values = np.frombuffer(bytes(after.buffers[new.buffer].data), "<f4")
        decoded = np.zeros_like(wanted)
        for row in range(rows.denseSize):
            part = slice(*columns.arraySegments.values[row : row + 2])
            decoded[row, columns.arrayIndices.values[part]] = values[part]
        np.testing.assert_array_equal(decoded, wanted)
        assert columns.arrayIndices.values.dtype == np.uint8  # no position is above 255
        checked += 1
    assert checked == 2
    assert encodable(file) == []
