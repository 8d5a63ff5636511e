from __future__ import annotations

import json
import math
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.measuring.compare import Comparison
from keras_kd.measuring.per_layer import LayerDifference

X = np.random.default_rng(0).uniform(size=(24, 10, 10, 3)).astype(np.float32)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    i = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="stem")(i)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    y = layers.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(6, 3, activation="swish", name="swish")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(i, layers.Dense(5, activation="softmax", name="out")(x), name="net")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if "bn" in weight.path:
            low, high = (0.5, 1.5) if "variance" in weight.path else (-0.2, 0.8)
            weight.assign(generator.uniform(low, high, weight.shape))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {
        quantization: kd.export_tflite(
            network(),
            folder / f"{quantization}.tflite",
            quantization,
            representative_data=X if quantization == "int8" else None,
            verbose=False,
        )
        for quantization in ("float32", "int8")
    }


def by_layer(comparison: kd.Comparison) -> dict[str, object]:
    return {layer: row for row in comparison.layers for layer in row.layers}


def test_differences_of_the_outputs(folder: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, use_bias=False)])
    path = kd.export_tflite(model, folder / "linear.tflite", verbose=False)
    written = model.get_weights()[0]
    model.set_weights([written[:, [1, 0, 2]]])
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    reference, output = x @ written[:, [1, 0, 2]], x @ written
    result = kd.compare(model, path, x)
    assert result.agreement == np.mean(reference.argmax(1) == output.argmax(1)) < 1
    difference = np.abs(reference - output)
    assert result.max_difference == pytest.approx(difference.max(), rel=1e-5)
    assert result.mean_difference == pytest.approx(difference.mean(), rel=1e-5)
    noise = 10 * np.log10((reference**2).sum() / (difference**2).sum())
    assert result.signal_to_noise_db == pytest.approx(noise, rel=1e-5)
    assert (result.samples, result.layers, result.worst) == (50, None, None)
    assert kd.compare(path, x, model, max_samples=7).samples == 7
    assert kd.compare(model, path, data=x, max_samples=7).samples == 7
    assert kd.compare(model, path, x, task="regression").agreement is None


def test_every_layer_of_a_float_file(files: dict[str, pathlib.Path]) -> None:
    result = kd.compare(network(), files["float32"], X, per_layer=True, max_samples=20)
    assert result.samples == 20 and result.not_found == ()
    assert [row.layers for row in result.layers] == [
        ("stem", "stem_bn", "stem_relu"),
        ("depthwise", "depthwise_bn"),
        ("pointwise",),
        ("add",),
        ("swish", "dropout"),
        ("pool",),
        ("out",),
    ]
    assert all(row.relative_error < 1e-5 and row.growth == 1 for row in result.layers)
    assert "grows nowhere" in str(result) and result.first_above(0.01) is None


@pytest.mark.parametrize("layer", ["stem", "depthwise", "pointwise", "swish", "out"])
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_damaged_layer_is_named(
    files: dict[str, pathlib.Path], layer: str, quantization: str
) -> None:
    model = network()  # the file was made from the same one, undamaged
    generator = np.random.default_rng(1)
    damaged = model.get_layer(layer)
    kernel, *bias = damaged.get_weights()
    damaged.set_weights([kernel + generator.normal(0, kernel.std(), kernel.shape), *bias])
    result = kd.compare(model, files[quantization], X, per_layer=True)
    assert layer in result.grows_most.layers
    assert result.grows_most.growth > 10
    assert result.first_above(0.1) is result.grows_most
    assert f"grows most in '{result.grows_most.layer}'" in str(result)
    before = [row for row in result.layers if row is not result.grows_most]
    for row in before[: result.layers.index(result.grows_most)]:
        assert row.relative_error < 0.05


def test_relative_error_is_of_the_layers_own_spread(files: dict[str, pathlib.Path]) -> None:
    model = network()
    inner = keras.Model(model.inputs, model.get_layer("add").output)
    before = np.asarray(inner(X), np.float64)
    kernel, bias = model.get_layer("pointwise").get_weights()
    model.get_layer("pointwise").set_weights([kernel, bias + 0.3])
    changed = np.asarray(keras.Model(model.inputs, model.get_layer("add").output)(X), np.float64)
    row = by_layer(kd.compare(model, files["float32"], X, per_layer=True))["add"]
    difference = before - changed
    assert row.relative_error == pytest.approx(
        np.sqrt((difference**2).mean()) / changed.std(), rel=1e-4
    )
    assert row.max_difference == pytest.approx(np.abs(difference).max(), rel=1e-4)
    noise = 10 * np.log10((changed**2).sum() / (difference**2).sum())
    assert row.signal_to_noise_db == pytest.approx(noise, rel=1e-4)


def test_an_int8_file_is_dequantized(files: dict[str, pathlib.Path]) -> None:
    rows = by_layer(kd.compare(network(), files["int8"], X, per_layer=True))
    assert rows["stem"].kind == rows["add"].kind == "INT8"
    assert all(0 < row.relative_error < 0.05 for row in rows.values())


@pytest.mark.promise
def test_nested_models_a_fixed_batch_and_names_in_a_row(folder: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential(
        [keras.Input((8, 3)), layers.Conv1D(4, 3, name="conv"), layers.ReLU(name="relu")],
        name="backbone",
    )
    i = keras.Input((8, 3))
    x = layers.Dense(4, activation="tanh", name="dense")(backbone(i))
    x = layers.Dense(4, activation="tanh", name="dense_1")(x)
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    outputs = {"b": layers.Dense(2, name="left")(x), "a": layers.Dense(2, name="right")(x)}
    model = keras.Model(i, outputs)
    x = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32)
    for batch_size in (1, 2):
        path = kd.export_tflite(model, folder / "n.tflite", batch_size=batch_size, verbose=False)
        result = kd.compare(model, path, x, per_layer=True)
        found = by_layer(result)
        assert {"backbone/conv", "backbone/relu", "dense", "dense_1", "left", "right"} <= set(found)
        assert found["backbone/conv"] is found["backbone/relu"]
        assert found["dense"] is not found["dense_1"]
        assert all(row.relative_error < 1e-4 for row in result.layers)
        assert ("lstm" in found) != ("lstm" in result.not_found)


def test_subclassed_models(folder: pathlib.Path) -> None:
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Conv2D(4, 3, activation="relu", name="first")
            self.second = layers.Dense(3, name="second")

        def call(self, x):
            return self.second(keras.ops.mean(self.first(x), (1, 2)))

    model = Subclassed()
    model(X[:1])
    path = kd.export_tflite(model, folder / "s.tflite", verbose=False)
    result = kd.compare(model, path, X, per_layer=True)
    assert [row.layers for row in result.layers] == [("first",), ("second",)]


def test_layers_that_are_called_twice_are_left_out(folder: pathlib.Path) -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(5, activation="relu", name="shared")
    x = layers.Concatenate(name="both")([shared(a), shared(b)])
    model = keras.Model([a, b], layers.Dense(2, name="out")(x))
    path = kd.export_tflite(model, folder / "t.tflite", verbose=False)
    data = dict(zip("ab", np.random.default_rng(0).normal(size=(2, 9, 4)), strict=True))
    result = kd.compare(model, path, data, per_layer=True)
    assert result.not_found == ("shared",)
    assert [row.layer for row in result.layers] == ["both", "out"]
    assert all(row.relative_error < 1e-5 for row in result.layers)
    assert "Without a tensor of their own: shared." in str(result)


def test_a_file_of_keras_itself(folder: pathlib.Path) -> None:
    network().export(folder / "keras.tflite", format="litert", verbose=False)
    result = kd.compare(network(), folder / "keras.tflite", X, per_layer=True)
    assert len(result.layers) == 7 and result.worst.relative_error < 1e-4


@pytest.mark.slow
def test_a_model_after_quantization_aware_training(folder: pathlib.Path) -> None:
    teacher, student = network(), network()
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(from_logits=False)])
    distiller.compile("sgd", loss="sparse_categorical_crossentropy")
    y = np.random.default_rng(0).integers(0, 5, len(X))
    stages = [kd.QuantizeAware(epochs=1)]
    compressed = kd.compress(distiller, (X, y), validation_data=(X, y), stages=stages, verbose=0)
    path = kd.export_tflite(compressed, folder / "qat.tflite", "int8", verbose=False)
    result = kd.compare(compressed, path, X, per_layer=True)
    found = by_layer(result)
    for layer in ("quant_stem", "quant_depthwise", "quant_pointwise", "quant_add", "quant_out"):
        assert found[layer].relative_error < 0.05
    assert found["quant_stem"].kind == "INT8"


def test_another_models_file(files: dict[str, pathlib.Path]) -> None:
    other = keras.Sequential([keras.Input((10, 10, 3)), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(ValueError, match="was not made from this model"):
        kd.compare(other, files["float32"], X)
    with pytest.raises(TypeError, match="Received: model=None"):
        kd.compare(None, files["float32"], X)
    with pytest.raises(ValueError, match="`data` is empty"):
        kd.compare(network(), files["float32"], X[:0])
    with pytest.raises(ValueError, match="`task` must be one of"):
        kd.compare(network(), files["float32"], X, task="guess")


def test_equal_outputs_have_no_noise(folder: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.ReLU(name="relu")])
    path = kd.export_tflite(model, folder / "r.tflite", verbose=False)
    result = kd.compare(model, path, np.ones((3, 2), np.float32), per_layer=True)
    assert result.signal_to_noise_db == math.inf and result.max_difference == 0
    (row,) = result.layers
    assert row.relative_error == 0.0  # of the output's size: it is constant, and has no spread
    kept = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert kept["signal_to_noise_db"] is None and kept["layers"][0]["layer"] == "relu"


def test_a_layer_without_numbers_is_the_worst() -> None:
    errors = {"a": (0.01, 1.0), "b": (math.nan, math.nan), "c": (0.5, 50.0), "d": (math.nan,) * 2}
    rows = [
        LayerDifference(name, (), name, "FLOAT32", error, 0.0, 0.0, growth)
        for name, (error, growth) in errors.items()
    ]
    result = Comparison("a.tflite", 1, "o", None, 0.0, 0.0, 0.0, tuple(rows))
    assert result.worst.layer == result.grows_most.layer == result.first_above().layer == "b"
    assert "grows most in 'b'" in str(result)


@pytest.mark.parametrize("arguments", [{"max_samples": -3}, {"max_samples": 0}, {"batch_size": 0}])
def test_numbers_below_one(files: dict[str, pathlib.Path], arguments: dict[str, int]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number"):
        kd.compare(next(iter(files.values())), X, network(), **arguments)


def test_outputs_without_a_number_are_no_answers(folder: pathlib.Path) -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.ops.sqrt(layers.Dense(4, name="half")(inputs)))
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    path = kd.export_tflite(model, folder / "nan.tflite", verbose=False)
    lost = np.isnan(model.predict(x, verbose=0)).any(axis=1)
    assert 0 < lost.sum() < 32
    with pytest.warns(UserWarning, match=f"NaN or infinite outputs for {lost.sum()} samples"):
        result = kd.compare(model, path, x, verbose=False)
    assert math.isnan(result.max_difference)
    assert result.agreement == pytest.approx(1 - lost.mean())


def test_what_layers_of_a_quantization_aware_student_are_compared_with(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, "relu", name="hidden")(inputs)
    student = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    compressed = kd.compress(
        student, (x, np.zeros(64, int)), stages=kd.QuantizeAware(epochs=0), verbose=0
    )
    path = kd.export_tflite(compressed, tmp_path / "student.tflite", "int8", verbose=False)
    found = kd.compare(path, x, compressed, per_layer=True)
    assert found.float_layers and "Layers are compared with the student in float" in str(found)
    assert not kd.compare(path, x, student, per_layer=True).float_layers
    assert not kd.compare(path, x, compressed).float_layers
