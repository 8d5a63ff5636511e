"""Files whose operators keep a state from one run to the next."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras
from ai_edge_litert import schema_py_generated as schema

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.packing import pack
from keras_kd.litert.runtime import LiteRuntime

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(7, 4, 3)).astype(np.float32)
KERNEL, RECURRENT = RANDOM.normal(size=(2, 3)), RANDOM.normal(size=(2, 2))
FEATURE, TIME = RANDOM.normal(size=(2, 3)), RANDOM.normal(size=(2, 4))
BIAS = np.array([0.5, -0.25])


def write(path, name, options, shape, weights, state, output):
    """Write a file of one operator, whose last input is the state."""
    model = schema.ModelT(version=3, buffers=[schema.BufferT()], subgraphs=[])
    code = getattr(schema.BuiltinOperator, name)
    model.operatorCodes = [
        schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)
    ]
    tensors = []
    for label, size in [("x", shape), *[(None, w) for w in weights], ("s", state), ("y", output)]:
        tensor = schema.TensorT(name=label or f"w{len(tensors)}", type=0, buffer=0)
        if label is None:
            model.buffers.append(schema.BufferT(data=size.astype("<f4").view(np.uint8).ravel()))
            tensor.buffer, size = len(model.buffers) - 1, size.shape
        tensor.shape, tensor.isVariable = list(size), label == "s"
        tensors.append(tensor)
    last = len(tensors) - 1
    operator = schema.OperatorT(opcodeIndex=0, inputs=list(range(last)), outputs=[last])
    kind = type(options).__name__.removesuffix("T")
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    operator.builtinOptions = options
    model.subgraphs = [
        schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[last], operators=[operator])
    ]
    path.write_bytes(pack(model, b"TFL3"))
    return path


def write_rnn(path):
    options = schema.SequenceRNNOptionsT(fusedActivationFunction=4)  # tanh
    weights = [KERNEL, RECURRENT, BIAS]
    return write(
        path, "UNIDIRECTIONAL_SEQUENCE_RNN", options, (1, 4, 3), weights, (1, 2), (1, 4, 2)
    )


def rnn(x):
    state, steps = np.zeros((len(x), 2)), []
    for step in range(x.shape[1]):
        state = np.tanh(x[:, step] @ KERNEL.T + state @ RECURRENT.T + BIAS)
        steps.append(state)
    return np.stack(steps, axis=1)


def write_svdf(path):
    options = schema.SVDFOptionsT(rank=1)
    weights = [FEATURE, TIME, BIAS]
    return write(path, "SVDF", options, (1, 3), weights, (1, 8), (1, 2))


def svdf(x):
    return (x @ FEATURE.T) * TIME[:, -1] + BIAS  # of what is remembered, nothing is known yet


@pytest.mark.parametrize(
    ("writer", "formula", "x"), [(write_rnn, rnn, X), (write_svdf, svdf, X[:, 0])]
)
def test_no_sample_remembers_those_before(tmp_path, writer, formula, x):
    path = writer(tmp_path / "a.tflite")
    for xnnpack in (True, False):
        runtime = LiteRuntime(path, xnnpack=xnnpack)
        for _ in range(2):
            (given,) = runtime.predict({"x": x}).values()
            np.testing.assert_allclose(given, formula(x), rtol=1e-5, atol=1e-6)


@pytest.mark.promise
def test_nor_does_one_on_a_microcontroller(tmp_path):
    pytest.importorskip("tflite_micro")
    written = kd.export_c_array(write_svdf(tmp_path / "a.tflite"), tmp_path / "a.h", name="a")
    assert written.max_difference < 1e-5


@pytest.mark.promise
def test_a_fused_lstm_agrees_with_its_model(tmp_path, recwarn):
    model = tf_keras.Sequential(
        [tf_keras.Input((4, 3)), tf_keras.layers.LSTM(5), tf_keras.layers.Dense(3)]
    )
    x = RANDOM.normal(size=(40, 4, 3)).astype(np.float32)
    file = kd.export_tflite(model, tmp_path / "a.tflite", representative_data=x, verbose=False)
    assert kd.read_metadata(file)["operators"]["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert file.fidelity.agreement == 1.0 and file.fidelity.worst.relative_error < 1e-4
    assert not [w for w in recwarn if "differs from its model" in str(w.message)]
    assert [w for w in recwarn if "`interpreter.reset_all_variables()` before" in str(w.message)]
    array = kd.export_c_array(file, tmp_path / "c", trial=False)
    assert "// interpreter.Reset() before each sample." in array.header.read_text()
    result = kd.evaluate_tflite(file, x, model, runs=1, warmup=0, batch_size=7, verbose=False)
    assert result.agreement == 1.0 and result.max_difference < 1e-5
    teacher = kd.teachers.load(file)
    expected = model.predict(x, verbose=0)
    for order in (slice(None), slice(None, None, -1)):
        given = keras.ops.convert_to_numpy(teacher(x[order]))
        np.testing.assert_allclose(given, expected[order], atol=1e-5)


class Stream(keras.layers.Layer):
    """Keeps half of what it knew before, in a variable."""

    def build(self, shape):
        self.state = self.add_weight(shape=(1, shape[-1]), trainable=False, initializer="ones")

    def call(self, x):
        self.state.assign(self.state / 2 + x)
        return self.state + 0.0

    def compute_output_shape(self, shape):
        return shape


def streaming():
    x = keras.Input(batch_shape=(1, 3))
    return keras.Model(x, Stream()(x)), X[:, 0], lambda x: x + 0.5


def stateful():
    x = keras.Input(batch_shape=(1, 4, 3))
    layer = keras.layers.SimpleRNN(2, stateful=True)
    model = keras.Model(x, layer(x))
    layer.set_weights([KERNEL.T, RECURRENT.T, BIAS])
    model(X[:1])  # whose state is not the file's initial one
    return model, X, lambda x: rnn(x)[:, -1]


def legacy():
    layer = tf_keras.layers.SimpleRNN(2, stateful=True, batch_input_shape=(1, 4, 3))
    model = tf_keras.Sequential([layer])
    layer.set_weights([KERNEL.T, RECURRENT.T, BIAS])
    model(X[:1])
    return model, X, lambda x: rnn(x)[:, -1]


def states_of(model):
    return [np.asarray(state) for state in getattr(model.layers[-1], "states", None) or ()]


@pytest.mark.parametrize("make", [streaming, stateful, legacy])
def test_nor_does_one_remember_those_before_in_a_variable(tmp_path, make):
    model, x, formula = make()
    before, states = model.get_weights(), states_of(model)
    data = [row[None] for row in x]
    file = kd.export_tflite(model, tmp_path / "a.tflite", representative_data=data, verbose=False)
    assert kd.read_metadata(file)["operators"]["ASSIGN_VARIABLE"]
    assert file.fidelity.worst.relative_error < 1e-5
    for xnnpack in (True, False):
        runtime = LiteRuntime(file, xnnpack=xnnpack)
        for order in (slice(None), slice(None, None, -1)):
            (given,) = runtime.predict({runtime.inputs[0].name: x[order]}).values()
            np.testing.assert_allclose(given, formula(x[order]), rtol=1e-5, atol=1e-6)
    for order in (data, data[::-1]):
        compared = kd.compare(file, order, model, per_layer=make is streaming, verbose=False)
        assert compared.max_difference < 1e-5
        assert make is not streaming or compared.worst.relative_error < 1e-5
        result = kd.evaluate_tflite(file, order, model, runs=1, warmup=0, verbose=False)
        assert result.max_difference < 1e-5
    for kept, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)
    assert all(map(np.array_equal, states, states_of(model)))
    assert make is streaming or np.any(states)


def test_a_variable_of_one_sample_is_never_given_more(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, Stream()(x))
    file = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    assert kd.read_metadata(file)["inputs"][0]["shape"] == [1, 3]
    with pytest.raises(ValueError, match="batch_size"):
        kd.export_tflite(model, tmp_path / "b.tflite", batch_size=None, verbose=False)
    open_ = ModelFile(file.read_bytes())  # as other programs write it
    for tensor in open_.model.subgraphs[0].tensors:
        tensor.shapeSignature = [-1, 3] if tensor.type == 0 else None
    (tmp_path / "open.tflite").write_bytes(open_.packed())
    runtime = LiteRuntime(tmp_path / "open.tflite")
    (given,) = runtime.predict({runtime.inputs[0].name: X[:, 0]}).values()
    np.testing.assert_allclose(given, X[:, 0] + 0.5, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"1 sample.*\(7, 3\)"):
        kd.benchmark_tflite(
            tmp_path / "open.tflite", 1, 0, inputs={runtime.inputs[0].name: X[:, 0]}
        )
