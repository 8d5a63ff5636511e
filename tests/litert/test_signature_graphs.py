from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.litert.signature_graphs import each_first, joined, order_signatures


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a model with a loop, and a file of three signatures."""
    keras.utils.set_random_seed(0)
    i = keras.Input((5, 4), name="i")
    z = layers.GRU(6, name="gru")(i)
    model = keras.Model(i, layers.Dense(3, name="o")(layers.Dense(2, name="fc")(z)))
    path = tmp_path_factory.mktemp("files") / "a.tflite"
    signatures = {"c": "gru", "a": "o", "b": "fc"}  # the converter sorts them
    return model, kd.export_tflite(model, path, signatures=signatures, verbose=False)


@pytest.mark.promise  # it converts a loop
def test_each_signature_comes_first(exported):
    model, path = exported
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    file = ModelFile(path.read_bytes())
    assert list(file.signature_graphs().items()) == [("c", 0), ("a", 1), ("b", 2)]
    assert len(file.model.subgraphs) > 3
    with each_first(path, ["c", "a", "b"]) as paths:
        assert paths["c"] is path
        for key, name in (("c", "gru"), ("a", "o"), ("b", "fc")):
            runtime = LiteRuntime(paths[key])
            assert runtime.output_names == [name] and runtime.file.has_names
            expected = keras.Model(model.inputs, model.get_layer(name).output)(x)
            np.testing.assert_allclose(runtime.predict({"i": x})[name], expected, atol=1e-5)


def test_files_are_joined(tmp_path):
    i = keras.Input((4,), name="i")
    z = layers.Dense(6, activation="relu", name="fc")(i)
    model = keras.Model(i, layers.Softmax(name="o")(layers.Dense(3)(z)))
    files = []
    for key, target in (("a", None), ("b", "fc")):
        path = tmp_path / f"{key}.tflite"
        kd.export_tflite(model, path, signatures={key: target}, keep_names=True, verbose=False)
        files.append(ModelFile(path.read_bytes()))
    sizes = [len(file.content) for file in files]
    made = joined(files)
    order_signatures(made, ["b", "a"])
    path = tmp_path / "made.tflite"
    path.write_bytes(made.packed())
    assert list(ModelFile(path.read_bytes()).signature_graphs().items()) == [("b", 0), ("a", 1)]
    assert path.stat().st_size < sum(sizes)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    with each_first(path, ["b", "a"]) as paths:
        np.testing.assert_allclose(
            LiteRuntime(paths["a"]).predict({"i": x})["o"], model(x), atol=1e-6
        )
        np.testing.assert_allclose(
            LiteRuntime(path).predict({"i": x})["fc"], model.get_layer("fc")(x), atol=1e-6
        )
