import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import load

SparseCE = keras.losses.SparseCategoricalCrossentropy


export = functools.partial(kd.export_tflite, verbose=False)


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="teacher")


def images(count=20):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    model.save(folder / "model.keras")
    model.export(folder / "saved", verbose=False)
    export(model, folder / "float.tflite")
    export(
        model,
        folder / "int8.tflite",
        quantization="int8",
        representative_data=images(64),
        integer_io=True,
    )
    export(model, folder / "six.tflite", batch_size=6)
    export(model, folder / "any.tflite", batch_size=None)
    return folder


def fit(teacher):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(2.0))
    distiller.compile(
        keras.optimizers.SGD(0.1), SparseCE(from_logits=True), evaluate_distillation=True
    )
    # 20 examples in batches of 8: the last batch has another size.
    data = tf.data.Dataset.from_tensor_slices((images(), np.arange(20) % 3)).batch(8)
    distiller.fit(data, validation_data=data, epochs=2, verbose=0)
    return student.get_weights()


@pytest.fixture(scope="module")
def expected(model):
    return fit(model)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("saved", 1e-5),
        ("any.tflite", 1e-5),
        ("six.tflite", 1e-5),
        ("int8.tflite", 5e-3),
    ],
)
def test_files_teach_as_the_model_does(name, tolerance, folder, expected):
    teacher = load(folder / name)
    for a, b in zip(expected, fit(teacher), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_integers_of_a_quantized_file_are_taken_and_given_as_numbers(model, folder):
    teacher = load(folder / "int8.tflite", threads=1)
    outputs = teacher(images())
    assert outputs.dtype == tf.float32
    exact = model(images()).numpy()
    assert np.abs(outputs - exact).max() < 0.05 * np.abs(exact).max()
    assert len(np.unique(outputs)) > 20


@pytest.mark.parametrize("name", ["saved", "any.tflite", "six.tflite"])
def test_shapes_are_known_in_a_graph(name, folder):
    teacher = load(folder / name)
    for batch in (None, 5):
        function = tf.function(teacher, autograph=False)
        spec = tf.TensorSpec((batch, 8, 8, 1), tf.float32)
        outputs = function.get_concrete_function(spec).structured_outputs
        assert tuple(outputs.shape) == (batch, 3)


def test_several_threads_may_call_a_file_at_once(model, folder):
    teacher = load(folder / "any.tflite", threads=1)
    x, results = images(32), {}

    def run(i):
        for _ in range(10):
            results[i] = teacher(x[i : i + 1 + i % 7]).numpy()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for i, result in results.items():
        np.testing.assert_allclose(result, model(x[i : i + 1 + i % 7]), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "b": b}, {"x": keras.layers.Dense(3)(a), "y": 2.0 * b})
    model.export(folder / "saved", verbose=False)
    export(model, folder / "file.tflite", batch_size=None)
    return model, folder


@pytest.mark.parametrize("name", ["saved", "file.tflite"])
def test_inputs_and_outputs_by_name(two, name):
    model, folder = two
    teacher = load(folder / name)
    x = {"b": np.ones((5, 2), "float64"), "a": np.ones((5, 4), "float32")}
    outputs, exact = teacher(x), model({k: v.astype("float32") for k, v in x.items()})
    assert set(outputs) == {"x", "y"}
    for key, value in exact.items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-5)
    with pytest.raises(ValueError, match=r"takes the inputs 'a', 'b'|takes the inputs 'b', 'a'"):
        teacher({"a": x["a"]})
    with pytest.raises(ValueError, match=r"data holds 1 input.*teacher_inputs"):
        teacher(x["a"])
    with pytest.raises(ValueError, match=r"takes 'a' of shape \(4,\).*the data has \(2,\)"):
        teacher({"a": x["b"], "b": x["b"]})


def test_signatures_of_a_saved_model(tmp_path):
    module = tf.Module()
    module.scale = tf.Variable(2.0)
    spec = tf.TensorSpec((None, 3), tf.float32)
    one = tf.function(lambda x: {"z": module.scale * x}).get_concrete_function(spec)
    two = tf.function(lambda x: {"z": 3.0 * module.scale * x}).get_concrete_function(spec)
    tf.saved_model.save(module, tmp_path / "m", signatures={"one": one, "two": two})
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(load(tmp_path / "m", signature="two")(x), 6.0 * x)
    with pytest.raises(ValueError, match=r"the signatures 'one', 'two'.*signature='one'"):
        load(tmp_path / "m")
    with pytest.raises(ValueError, match="no signature 'three'; it has 'one', 'two'"):
        load(tmp_path / "m", signature="three")


def test_hints_need_the_layers_of_a_keras_file(folder):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, name="conv")(inputs)
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    hint = kd.Hint("conv", "conv")
    kd.Distiller(load(folder / "model.keras"), student, hint)
    for name in ("saved", "float.tflite"):
        with pytest.raises(ValueError, match=r"has no layer 'conv'.*a file has outputs"):
            kd.Distiller(load(folder / name), student, hint)


def test_damaged_files_are_refused_in_one_sentence(folder, tmp_path):
    for name in ("float.tflite", "model.keras"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=str(tmp_path / name)) as error:
            load(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    (tmp_path / "saved").mkdir()
    for content in (None, b"nonsense" * 10):
        if content is not None:
            (tmp_path / "saved" / "saved_model.pb").write_bytes(content)
        with pytest.raises(ValueError, match="is not a SavedModel that") as error:
            load(tmp_path / "saved")
        assert len(str(error.value).splitlines()) == 1


def test_what_is_no_teacher_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file or folder at"):
        load(tmp_path / "absent.keras")
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a \.keras or \.h5 file, a SavedModel folder or a"):
        load(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"`signature` does not apply.*a \.tflite file"):
        load(folder / "float.tflite", signature="serve")
