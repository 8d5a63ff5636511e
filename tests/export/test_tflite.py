from __future__ import annotations

import os
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.constants import count_constants
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.models.tfmot import import_tfmot


def cnn(flatten: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12, 12, 1), name="image"),
            layers.RandomFlip(),
            layers.Conv2D(16, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Conv2D(32, 3),
            layers.Flatten() if flatten else layers.GlobalAveragePooling2D(),
            layers.Dense(64, activation="relu"),
            layers.Dense(4),
        ]
    )


def images(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).random((count, 12, 12, 1), np.float32)


def run(path: pathlib.Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    return LiteRuntime(path).predict(inputs)


def operators(path: pathlib.Path) -> dict[str, int]:
    return ModelFile(path.read_bytes()).operator_counts()


def export(model, path: pathlib.Path, *args, **kwargs) -> pathlib.Path:
    # One way to calibrate: `test_ways.py` is about the others.
    return export_tflite(model, path, *args, verbose=False, calibration="minmax", **kwargs)


@pytest.mark.parametrize(
    ("quantization", "tolerance", "types"),
    [
        ("float32", 1e-5, {"FLOAT32"}),
        ("float16", 1e-2, {"FLOAT16"}),
        ("dynamic", 5e-2, {"FLOAT32", "INT8"}),
        ("int8", 5e-2, {"INT8", "INT32"}),
        ("int16x8", 5e-2, {"INT8", "INT64", "INT32"}),
    ],
)
def test_each_quantization_gives_the_models_outputs(
    tmp_path: pathlib.Path, quantization: str, tolerance: float, types: set[str]
) -> None:
    model, x = cnn(), images()
    path = export(model, tmp_path / "a.tflite", quantization, representative_data=x)
    expected = model(x, training=False).numpy()
    (output,) = run(path, image=x).values()
    assert output.dtype == np.float32
    assert np.abs(output - expected).max() <= tolerance * np.ptp(expected)
    assert set(count_constants(ModelFile(path.read_bytes())).types) <= types
    if quantization in ("int8", "int16x8"):
        assert ModelFile(path.read_bytes()).float_operators() == []


@pytest.mark.promise
def test_quantized_files_are_smaller(tmp_path: pathlib.Path) -> None:
    model, x = cnn(flatten=True), images()
    size = {
        q: export(model, tmp_path / f"{q}.tflite", q, representative_data=x).stat().st_size
        for q in ("float32", "float16", "int8")
    }
    assert size["int8"] < size["float16"] < size["float32"]


def test_integer_io(tmp_path: pathlib.Path) -> None:
    model, x = cnn(), images()
    path = export(model, tmp_path / "a.tflite", "int8", representative_data=x, integer_io=True)
    inputs, outputs = LiteRuntime(path).describe_tensors()
    assert (inputs[0]["dtype"], outputs[0]["dtype"]) == ("int8", "int8")
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators(path))
    expected = model(x, training=False).numpy()
    (output,) = run(path, image=x).values()
    assert np.abs(output - expected).max() <= 5e-2 * np.ptp(expected)


def test_augmentation_and_dropout_vanish(tmp_path: pathlib.Path) -> None:
    path = export(cnn(), tmp_path / "a.tflite")
    assert set(operators(path)) == {"CONV_2D", "MEAN", "FULLY_CONNECTED"}


def test_the_batch_is_open_where_nothing_computes_shapes(tmp_path: pathlib.Path) -> None:
    path = export(cnn(flatten=False), tmp_path / "a.tflite")
    assert LiteRuntime(path).inputs[0].shape == (None, 12, 12, 1)


def test_the_batch_is_one_where_shapes_would_be_computed(tmp_path: pathlib.Path) -> None:
    path = export(cnn(flatten=True), tmp_path / "a.tflite")
    assert LiteRuntime(path).inputs[0].shape == (1, 12, 12, 1)
    assert "SHAPE" not in operators(path)


@pytest.mark.fast_cases("8")
@pytest.mark.parametrize("batch_size", [None, 1, 8])
def test_a_given_batch_size_is_kept(tmp_path: pathlib.Path, batch_size: int | None) -> None:
    model, x = cnn(flatten=True), images(11)
    path = export(model, tmp_path / "a.tflite", batch_size=batch_size)
    assert LiteRuntime(path).inputs[0].shape[0] == batch_size
    (output,) = run(path, image=x).values()
    np.testing.assert_allclose(output, model(x, training=False), atol=1e-5)


def two_inputs() -> keras.Model:
    keras.utils.set_random_seed(1)
    words = keras.Input((6,), name="words", dtype="int32")
    features = keras.Input((3,), name="extra-features")
    x = layers.Embedding(10, 4)(words)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), features])
    return keras.Model(
        [words, features], [layers.Dense(3, name="topic")(x), layers.Dense(2, name="mood")(x)]
    )


def two_inputs_data(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return (
        generator.integers(0, 10, (count, 6)).astype("int32"),
        generator.standard_normal((count, 3)).astype("float32"),
    )


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_several_inputs_and_outputs_keep_names_and_order(
    tmp_path: pathlib.Path, quantization: str
) -> None:
    model, (words, features) = two_inputs(), two_inputs_data()
    path = export(
        model, tmp_path / "a.tflite", quantization, representative_data=((words, features), words)
    )
    runtime = LiteRuntime(path)
    # Both orders differ from the alphabetical one, which is the converter's own.
    assert [i.name for i in runtime.inputs] == ["words", "extra_features"]
    assert runtime.output_names == ["topic", "mood"]
    topic, mood = model([words, features], training=False)
    outputs = run(path, words=words, extra_features=features)
    tolerance = 1e-5 if quantization == "float32" else 0.1
    np.testing.assert_allclose(outputs["topic"], topic, atol=tolerance)
    np.testing.assert_allclose(outputs["mood"], mood, atol=tolerance)


@pytest.mark.fast_cases("class-class_", "my input-1-my_input_1")
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("in", "in_"),
        ("class", "class_"),
        ("self", "self_"),
        ("1st", "x_1st"),
        ("größe", "gro_e"),
        ("_hidden", "x__hidden"),
        ("my input-1", "my_input_1"),
    ],
)
def test_any_name_of_an_input_and_an_output_is_written(
    tmp_path: pathlib.Path, name: str, written: str
) -> None:
    i = keras.Input((4,), name=name)
    model = keras.Model({name: i}, {name: layers.Dense(3)(i)})
    runtime = LiteRuntime(export(model, tmp_path / "a.tflite"))
    assert [i.name for i in runtime.inputs] == runtime.output_names == [written]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    result = evaluate_tflite(
        tmp_path / "a.tflite", ({name: x},), model=model, runs=1, warmup=0, verbose=False
    )
    assert result.agreement == 1


def test_names_that_become_one_are_refused(tmp_path: pathlib.Path) -> None:
    inputs = [keras.Input((4,), name="a b"), keras.Input((4,), name="a-b")]
    model = keras.Model(inputs, layers.Add()(inputs))
    with pytest.raises(ValueError, match="a-b"):
        export(model, tmp_path / "a.tflite")


def test_representative_data_by_name_and_from_a_dataset(tmp_path: pathlib.Path) -> None:
    words, features = two_inputs_data()
    data = tf.data.Dataset.from_tensor_slices(
        ({"extra-features": features, "words": words}, np.zeros(20))
    )
    whole = export(two_inputs(), tmp_path / "a.tflite", "int8", representative_data=data.batch(7))
    single = export(two_inputs(), tmp_path / "b.tflite", "int8", representative_data=data)
    expected = run(whole, words=words, extra_features=features)
    for name, output in run(single, words=words, extra_features=features).items():
        np.testing.assert_array_equal(output, expected[name])


def test_nested_model(tmp_path: pathlib.Path) -> None:
    inner = cnn()
    i = keras.Input((12, 12, 1), name="image")
    model = keras.Model(i, layers.Dense(3)(inner(layers.Rescaling(2.0)(i))))
    path = export(model, tmp_path / "a.tflite")
    x = images()
    (output,) = run(path, image=x).values()
    np.testing.assert_allclose(output, model(x, training=False), atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(8, activation="relu")
        self.normalization = layers.BatchNormalization()
        self.head = layers.Dense(3)

    def call(self, x, training=False):
        return {"logits": self.head(self.normalization(self.hidden(x), training=training))}


def test_subclassed_model(tmp_path: pathlib.Path) -> None:
    model, x = Subclassed(), np.random.default_rng(0).random((9, 5), np.float32)
    model(x)
    path = export(model, tmp_path / "a.tflite")
    np.testing.assert_allclose(
        run(path, input=x)["logits"], model(x, training=False)["logits"], atol=1e-5
    )


def test_an_unbuilt_model_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="is not built"):
        export(Subclassed(), tmp_path / "a.tflite")


def test_mixed_precision_is_exported_in_float32(tmp_path: pathlib.Path) -> None:
    i = keras.Input((12, 12, 1), name="image")
    x = layers.Conv2D(8, 3, dtype="mixed_float16")(i)
    x = layers.GlobalAveragePooling2D(dtype="mixed_float16")(x)
    model = keras.Model(i, layers.Dense(4, dtype="mixed_float16")(x))
    path = export(model, tmp_path / "a.tflite")
    assert set(ModelFile(path.read_bytes()).tensor_types()) <= {"FLOAT32", "INT32"}
    assert [layer.compute_dtype for layer in model.layers[1:]] == ["float16"] * 3
    data = images()
    (output,) = run(path, image=data).values()
    np.testing.assert_allclose(output, model(data, training=False), atol=2e-3)


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU])
@pytest.mark.parametrize("quantization", ["float32", "dynamic", "int8"])
@pytest.mark.promise
def test_recurrent_layers_need_no_flex(
    tmp_path: pathlib.Path, layer: type[keras.layers.RNN], quantization: str
) -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((6, 4), name="steps")
    recurrent = layer(40)
    model = keras.Model(i, layers.Dense(3)(recurrent(i)))
    x = np.random.default_rng(0).standard_normal((40, 6, 4)).astype("float32")
    path = export(model, tmp_path / "a.tflite", quantization, representative_data=x)
    assert ("WHILE" in operators(path)) == (quantization == "float32")
    assert recurrent.unroll is False
    if quantization != "float32":
        assert "INT8" in count_constants(ModelFile(path.read_bytes())).types
    expected = model(x, training=False).numpy()
    (output,) = run(path, steps=x).values()
    tolerance = 1e-5 if quantization == "float32" else 0.1 * np.ptp(expected)
    np.testing.assert_allclose(output, expected, atol=tolerance)


class Loop(layers.Layer):
    def call(self, x):
        return tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, tf.tanh(v)), (0, x))[1]


def test_a_loop_is_refused_before_the_converter_crashes_on_it(tmp_path: pathlib.Path) -> None:
    i = keras.Input((4,))
    model = keras.Model(i, Loop()(layers.Dense(4)(i)))
    with pytest.raises(ValueError, match="cannot calibrate the loops"):
        export(model, tmp_path / "a.tflite", "int8", representative_data=np.ones((3, 4)))


class Inverse(layers.Layer):
    def call(self, x):
        return tf.linalg.inv(x)


def test_an_operator_without_builtin_is_named(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    i = keras.Input((4, 4))
    model = keras.Model(i, Inverse(name="my_inverse")(i))
    with pytest.raises(
        ValueError, match=r"(?s)MatrixInverse \(in .*my_inverse.*The converter said"
    ):
        export(model, tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_nothing_but_one_line_is_printed(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = cnn()
    capfd.readouterr()
    path = export_tflite(model, tmp_path / "a.tflite", "int8", representative_data=images())
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith(f"{path}: int8, ") and out.count("\n") == 1
    export_tflite(model, path, verbose=False)
    assert capfd.readouterr() == ("", "")


class Floating(layers.Layer):
    def call(self, x):
        return tf.math.sin(x)


def test_operators_left_in_float_are_named(tmp_path: pathlib.Path) -> None:
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(4)(Floating(name="my_sine")(layers.Dense(4)(i))))
    x = np.random.default_rng(0).random((8, 4), np.float32)
    with pytest.warns(UserWarning, match="SIN stay in float .*my_sine"):
        path = export(model, tmp_path / "a.tflite", "int8", representative_data=x)
    assert [o.name for o in ModelFile(path.read_bytes()).float_operators()] == ["SIN"]


@pytest.mark.promise
def test_sparse_encoding_makes_a_pruned_file_smaller(tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((64,), name="x")
    model = keras.Model(i, layers.Dense(64)(layers.Dense(128, activation="relu")(i)))
    for layer in model.layers[1:]:
        kernel, bias = layer.get_weights()
        kernel[np.random.default_rng(0).random(kernel.shape) < 0.9] = 0
        layer.set_weights([kernel, bias])
    dense = export(model, tmp_path / "dense.tflite")
    sparse = export(model, tmp_path / "sparse.tflite", sparse=True)
    assert sparse.stat().st_size < 0.5 * dense.stat().st_size
    constants = count_constants(ModelFile(sparse.read_bytes()))
    assert constants.sparse_tensors == 2
    assert constants == count_constants(ModelFile(dense.read_bytes())).__class__(
        **{**vars(count_constants(ModelFile(dense.read_bytes()))), "sparse_tensors": 2}
    )
    x = np.random.default_rng(0).standard_normal((5, 64)).astype("float32")
    (output,) = run(sparse, x=x).values()
    np.testing.assert_allclose(output, model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int3"}, "`quantization` must be one of .*Received: quantization='int3'"),
        ({"quantization": "int8"}, "needs `representative_data`"),
        ({"integer_io": True}, 'use `quantization="int8"`'),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"calibration_batches": 0}, "`calibration_batches` must be"),
        ({"quantization": "int4", "sparse": True}, "does not go with"),
        ({"batch_size": {"other": 1}}, r"do not exist: \['other'\]"),
        ({"signatures": {"a b": None}}, "letters, digits"),
        ({"signatures": {"a": 3}}, "must be a layer's name"),
        ({"signatures": {"a": "no_such_layer"}}, "no layer 'no_such_layer'"),
        ({"class_names": ["a", "b"]}, "has 2 names, but .* has 4 units. Pass 4 names"),
        ({"class_names": "abcd"}, "must be a list of names"),
        ({"preprocessing": 3}, "must be a dict"),
        ({"preprocessing": {"scale": object()}}, "must hold numbers"),
    ],
)
def test_wrong_arguments(
    tmp_path: pathlib.Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export(cnn(), tmp_path / "a.tflite", **arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 12, 12, 1)), "`representative_data` is empty"),
        (np.zeros((4, 10, 12, 1)), r"shape \(4, 10, 12, 1\) where the model has the input 'image'"),
        (np.full((4, 12, 12, 1), np.nan), "NaN"),
        ((np.zeros((4, 12, 12, 1)), np.zeros(3)), "different lengths"),
    ],
)
def test_wrong_representative_data(tmp_path: pathlib.Path, data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(cnn(), tmp_path / "a.tflite", "int8", representative_data=data)


def test_a_distiller_is_refused(tmp_path: pathlib.Path) -> None:
    model = cnn()
    model.teacher, model.student = cnn(), cnn()
    with pytest.raises(ValueError, match=r"export_tflite\(distiller\.student"):
        export(model, tmp_path / "a.tflite")


def test_a_model_quantized_by_keras_is_refused(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="quantized")])
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized by keras.*\['quantized'\]"):
        export(model, tmp_path / "a.tflite")


@pytest.mark.fast_cases("int8")
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_attention(tmp_path: pathlib.Path, quantization: str) -> None:
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 16), name="tokens")
    x = layers.LayerNormalization()(i + layers.MultiHeadAttention(2, 8)(i, i))
    x = layers.GlobalAveragePooling1D()(layers.Dense(16, activation="gelu")(x))
    model = keras.Model(i, layers.Dense(3)(x))
    data = np.random.default_rng(0).standard_normal((40, 8, 16)).astype("float32")
    path = export(model, tmp_path / "a.tflite", quantization, representative_data=data)
    expected = model(data, training=False).numpy()
    (output,) = run(path, tokens=data).values()
    tolerance = 1e-5 if quantization == "float32" else 0.15 * np.ptp(expected)
    np.testing.assert_allclose(output, expected, atol=tolerance)


def test_something_else_than_a_model_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match="must be a Keras model"):
        export("model", tmp_path / "a.tflite")


def test_a_path_which_cannot_be_written_is_refused_before_the_conversion(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("the conversion began")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file, and a folder was expected"):
        export(cnn(), tmp_path / "file" / "a.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(OSError, match="it is a folder"):
        export(cnn(), tmp_path / "folder.tflite")
    with pytest.raises(ValueError, match=r"must end in '\.tflite'"):
        export(cnn(), tmp_path / "a.bin")


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.tflite"
    target.write_bytes(b"old")

    def half(self: pathlib.Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        export(cnn(), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_which_litert_cannot_run_is_not_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: pathlib.Path, samples: object) -> None:
        raise ValueError(f"LiteRT cannot run '{path}': node 3 failed")

    monkeypatch.setattr("keras_kd.export.file_checks.check_file", refuse)
    with pytest.raises(ValueError, match=r"was not written\. LiteRT cannot run 'a\.tflite'"):
        export(cnn(), tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


class Written:
    """What compression gives: a model which writes its own SavedModel."""

    quantization_aware = False

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def write_saved_model(self, folder: str | os.PathLike[str]) -> None:
        archive = keras.export.ExportArchive()
        archive.track(self._model)
        spec = tf.TensorSpec((None, 12, 12, 1), tf.float32, name="image")
        archive.add_endpoint(
            "serving_default", lambda image: self._model(image, training=False), [spec]
        )
        archive.write_out(os.fspath(folder), verbose=False)


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.promise
def test_a_model_which_writes_itself(
    tmp_path: pathlib.Path, quantization: str, flatten: bool
) -> None:
    model, x = cnn(flatten), images()
    path = export(Written(model), tmp_path / "a.tflite", quantization, representative_data=x)
    result = evaluate_tflite(path, x, model, runs=1)
    assert result.max_difference < (1e-5 if quantization == "float32" else 0.05)
    assert result.inputs[0]["shape"][0] == (1 if flatten else None)


@pytest.mark.promise
def test_tf_keras_model_keeps_names_and_order(tmp_path: pathlib.Path) -> None:
    import tf_keras

    words = tf_keras.Input((6,), name="words", dtype="int32")
    extra = tf_keras.Input((3,), name="extra")
    x = tf_keras.layers.Flatten()(tf_keras.layers.Embedding(10, 4)(words))
    x = tf_keras.layers.Concatenate()([x, extra])
    outputs = [tf_keras.layers.Dense(3, name=name)(x) for name in ("topic", "mood")]
    model = tf_keras.Model([words, extra], outputs)
    data = two_inputs_data()
    for quantization in ("float32", "int8"):
        path = export(
            model, tmp_path / "a.tflite", quantization, representative_data=(data, data[0])
        )
        runtime = LiteRuntime(path)
        assert [i.name for i in runtime.inputs] == ["words", "extra"]
        assert runtime.output_names == ["topic", "mood"]
        for position, name in enumerate(runtime.output_names):
            dataset = tf.data.Dataset.from_tensor_slices((data, np.zeros(20))).batch(8)
            result = evaluate_tflite(path, dataset, model, output=position, runs=1)
            assert result.output == name
            assert result.max_difference < (1e-5 if quantization == "float32" else 0.1)


def quantization_aware():
    tfmot, tf_keras = import_tfmot(), pytest.importorskip("tf_keras")
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((12, 12, 1), name="image"),
            tf_keras.layers.Conv2D(8, 3, activation="relu"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(4),
        ]
    )
    model = tfmot.quantization.keras.quantize_model(model)
    model.compile("adam", "mse")
    model.fit(images(), np.random.default_rng(0).random((40, 4)), epochs=2, verbose=0)
    return model


@pytest.mark.promise
def test_a_quantization_aware_model_needs_no_representative_data(tmp_path: pathlib.Path) -> None:
    model, x = quantization_aware(), images()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = export(model, tmp_path / "a.tflite", "int8")
        with_data = export(model, tmp_path / "b.tflite", "int8", representative_data=x)
        integers = export(model, tmp_path / "io.tflite", "int8", integer_io=True)
    step = LiteRuntime(integers).describe_tensors()[1][0]["scale"]
    for file in (path, with_data):
        assert ModelFile(file.read_bytes()).float_operators() == []
        result = evaluate_tflite(file, x, model, runs=1)
        # Both round to the same trained steps, and may fall on either side of one.
        assert result.max_difference <= 1.01 * step
    with pytest.warns(UserWarning, match='Use "int8"'):
        export(model, tmp_path / "c.tflite", "dynamic")
    with pytest.raises(ValueError, match=r'was trained for int8.*Use "int8"'):
        export(model, tmp_path / "c.tflite", "int4")


@pytest.mark.parametrize("quantization", ["int8", "int16x8", "dynamic"])
@pytest.mark.promise
def test_filters_that_pruning_emptied(tmp_path, quantization):
    # The scale of a channel that is all zero must not become zero or infinite.
    model = cnn()
    for layer, filters in ((model.layers[1], slice(0, 5)), (model.layers[5], slice(3, None, 2))):
        kernel = layer.get_weights()[0]
        kernel[..., filters] = 0.0
        layer.kernel.assign(kernel)
    dense = model.layers[-2]
    dense.kernel.assign(np.where(np.arange(64) % 2, dense.kernel, 0.0))
    dense.bias.assign(np.linspace(-1, 1, 64))
    model.layers[-1].kernel.assign(np.where(np.arange(4) > 0, model.layers[-1].kernel, 0.0))
    x = images()
    path = export(model, tmp_path / "a.tflite", quantization, representative_data=x)
    outputs = next(iter(run(path, image=x).values()))
    expected = model.predict(x, verbose=0)
    assert np.isfinite(outputs).all()
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_allclose(outputs[:, 0], 0.0, atol=1e-6)


class _Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale", initializer="ones")

    def call(self, x):
        return x * self.scale


class _Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.scale = _Scale(name="scale")

    def call(self, x):
        return self.scale(x)


def _functional(name: str | None) -> keras.Model:
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2, name="_")(_Scale()(inputs)), name=name)


@pytest.mark.parametrize("kind", ["class", "layer", "name", "signature"])
def test_names_that_begin_with_an_underscore(tmp_path: pathlib.Path, kind: str) -> None:
    model = _Net() if kind == "class" else _functional("_model" if kind == "name" else None)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    expected = np.asarray(model(x))
    names = [variable.value.name for variable in model.variables]
    signatures = {"serve": lambda x: {"y": model.layers[1](x)}} if kind == "signature" else None
    if kind == "class":
        model.build((None, 3))
    path = export_tflite(model, tmp_path / "a.tflite", signatures=signatures, verbose=False)
    if kind != "signature":
        (found,) = LiteRuntime(path).predict({LiteRuntime(path).inputs[0].name: x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert [variable.value.name for variable in model.variables] == names
    # A scope that failed would stay open, and be in the path of every later weight.
    later = layers.Dense(1, name="later")
    later.build((None, 1))
    assert later.kernel.path == "later/kernel"
