"""What custom layers compute themselves, and recurrent cells: rounded as the file rounds it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.models.keras_2_masks import MASKED_AS_IN_KERAS_2

WIDTH = 16


@keras.saving.register_keras_serializable("test_primitives")
class Token(layers.Layer):
    """Puts a learned token before a sequence and adds a learned position to each."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal", name="token")
        size = (1, shape[1] + 1, shape[-1])
        self.position = self.add_weight(shape=size, initializer="normal", name="position")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, 4.0 * x], 1) + self.position


@keras.saving.register_keras_serializable("test_primitives")
class Attention(layers.Layer):
    """Causal attention with a mask of large numbers, and a residual sum."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.projections = [layers.Dense(WIDTH) for _ in range(3)]

    def call(self, x):
        query, key, value = (layer(x) for layer in self.projections)
        scores = tf.einsum("btd,bsd->bts", query, key) / 4.0
        scores = scores + (1.0 - ops.tril(ops.ones(scores.shape[1:]))) * -1e9
        return x + ops.matmul(ops.softmax(scores), value)


@keras.saving.register_keras_serializable("test_primitives")
class Gated(layers.Layer):
    """Two functions of one tensor, of which the file has one operator each, and a product."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(WIDTH), layers.Dense(WIDTH)

    def call(self, x):
        first, second = self.first(x), self.second(x)
        return ops.gelu(first) * ops.sigmoid(second) + ops.silu(first)


@keras.saving.register_keras_serializable("test_primitives")
class OwnKernel(layers.Layer):
    """A product with a kernel of its own, a bias and a rectifier: one operator."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], WIDTH), name="kernel")
        self.bias = self.add_weight(shape=(WIDTH,), name="bias")

    def call(self, x, training=None):
        if training:
            x = keras.random.dropout(x, 0.5) * 1.0
        return ops.relu(ops.matmul(x, self.kernel) + self.bias)


@keras.saving.register_keras_serializable("test_primitives")
class Rotary(layers.Layer):
    """Turns pairs of numbers by an angle that depends on the position."""

    def call(self, x):
        angle = ops.outer(ops.arange(x.shape[1], dtype="float32"), ops.arange(1.0, 9.0) / 8.0)
        angle = ops.concatenate([angle, angle], -1)
        first, second = ops.split(x, 2, -1)
        turned = ops.reshape(ops.stack([-second, first], -2), (-1, *x.shape[1:]))
        return x * ops.cos(angle) + turned * ops.sin(angle)


@keras.saving.register_keras_serializable("test_primitives")
class Masked(layers.Layer):
    """Sums over the words before each, weighted by a softmax with a mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.softmax = layers.Softmax()

    def call(self, x):
        scores = tf.einsum("btd,bsd->bts", x, x) / 4.0
        mask = ops.tril(ops.ones(scores.shape[1:], "bool"))
        return ops.matmul(self.softmax(scores, mask=mask[None]), x)


class AddedInCode(keras.Model):
    """Computes in its own code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.last = layers.Dense(WIDTH), layers.Dense(4)

    def call(self, x):
        y = ops.relu(self.dense(x))
        return self.last(ops.concatenate([y[:, :, :8] + y[:, :, 8:], -3.0 * y], -1))


def functional(*made):
    given = keras.Input((6, WIDTH))
    x = layers.Dense(WIDTH)(given)
    for layer in made:
        x = layer(x)
    return keras.Model(given, layers.Dense(4)(x))


def in_code():
    model = AddedInCode()
    model(X[:1])
    return model


X = np.random.default_rng(0).normal(size=(32, 6, WIDTH)).astype("float32")


def quantized(student, **arguments):
    keras.utils.set_random_seed(0)
    distiller = kd.Distiller(None, student, [], student_loss_weight=1.0)
    distiller.compile("sgd", "mse")
    stage = kd.QuantizeAware(**{"epochs": 0, **arguments})
    return kd.compress(
        distiller,
        (X, np.zeros(student(X).shape)),
        stages=[stage],
        verbose=0,
    )


def steps_apart(result, path):
    """Return the file, and how many steps of its output lie between it and the model."""
    kd.export_tflite(result, path, "int8", verbose=False)
    runtime = LiteRuntime(path)
    given = next(iter(runtime.predict({runtime.inputs[0].name: X}).values()))
    file = ModelFile(path.read_bytes())
    last = file.output_operator(0, through=())
    scale = np.ravel(file.describe_tensor(0, last.input_indices[0])["scale"])[0]
    return file, np.abs(given - result.predict(X)) / scale


@pytest.mark.fast_cases("own kernel")
@pytest.mark.parametrize(
    "make",
    [
        lambda: functional(Token()),
        lambda: functional(Gated()),
        lambda: functional(OwnKernel()),
        lambda: functional(Rotary()),
        in_code,
    ],
    ids=["token", "gated", "own kernel", "rotary", "in code"],
)
def test_the_file_computes_in_integers_what_a_custom_layer_computes(make, tmp_path):
    file, steps = steps_apart(quantized(make()), tmp_path / "a.tflite")
    assert not file.float_operators()
    assert (steps <= 1.01).mean() >= 0.95 and steps.max() <= 2.01  # XNNPACK's sums are coarse


@pytest.mark.promise
def test_scores_behind_a_mask_of_large_numbers_stay_float(tmp_path):
    file, steps = steps_apart(quantized(functional(Attention())), tmp_path / "a.tflite")
    floating = {operator.name for operator in file.float_operators()}
    assert "SOFTMAX" in floating and floating <= {"ADD", "SOFTMAX"}
    assert (steps <= 1.01).mean() >= 0.999


@pytest.mark.promise
def test_a_mask_hides_in_the_file_what_it_hides_in_the_model(tmp_path):
    result = quantized(functional(Masked()))
    file, steps = steps_apart(result, tmp_path / "a.tflite")
    assert (steps <= 1.01).mean() >= 0.99 and steps.max() <= 2.01
    assert {o.name for o in file.float_operators()} <= {"ADD", "SOFTMAX"}
    runtime = LiteRuntime(tmp_path / "a.tflite")
    changed = np.concatenate([X[:, :3], X[::-1, 3:]], 1)
    before, after = (
        next(iter(runtime.predict({runtime.inputs[0].name: x}).values())) for x in (X, changed)
    )
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any()


@pytest.mark.fast_cases("False")
@pytest.mark.parametrize("training", [False, True])
def test_what_is_put_together_has_one_scale(training, tmp_path):
    given = keras.Input((6, WIDTH))
    x = layers.Dense(WIDTH, activation="relu")(given)
    wide = layers.Dense(WIDTH)(layers.MaxPooling1D(1)(x))
    kind = MASKED_AS_IN_KERAS_2["Concatenate"] if training else layers.Concatenate
    x = kind()([x, 3.0 * wide])
    student = keras.Model(given, layers.Dense(4)(kind()([x, given])))
    arguments = {"ranges": "minmax", "epochs": 1, "learning_rate": 1e-4} if training else {}
    result = quantized(student, **arguments)
    assert len(result.quantization["ranges"]) == 3  # `wide`, all that is joined, the output
    file, steps = steps_apart(result, tmp_path / "a.tflite")
    assert not file.float_operators() and steps.max() <= 1.01
    names = [operator.name for operator in file.operators()]
    assert names.count("QUANTIZE") == 1 and names.count("CONCATENATION") == 2
    result.save(tmp_path / "a.keras")
    loaded = kd.load_compressed(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(X), result.predict(X))


def backwards(units, **arguments):
    return layers.LSTM(units, go_backwards=True, **arguments)


def both_ways(units, **arguments):
    return layers.Bidirectional(layers.LSTM(units, **arguments))


@pytest.mark.promise
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN, backwards, both_ways])
def test_the_kernels_of_a_cell_have_8_bits_in_the_file(kind, tmp_path):
    given = keras.Input((6, WIDTH))
    student = keras.Model(given, layers.Dense(4)(kind(8, return_sequences=True)(given)))
    file, steps = steps_apart(quantized(student), tmp_path / "a.tflite")
    kernels = [
        file.tensor(o.graph, o.input_indices[1])
        for o in file.operators()
        if o.name == "FULLY_CONNECTED"
    ]
    assert kernels and {kernel.kind for kernel in kernels} == {"INT8"}
    assert (steps <= 1.01).mean() >= 0.99


def test_a_step_in_eager_mode_rounds_the_same(tmp_path):
    student = functional(Attention())
    result = quantized(student)
    with result.applied():
        eagerly = np.asarray(result.model(X, training=False))
    np.testing.assert_allclose(eagerly, result.predict(X), atol=1e-5)
    assert np.abs(eagerly - np.asarray(result.model(X))).max() > 1e-4


@pytest.mark.promise
def test_a_custom_layer_is_trained_saved_and_loaded(tmp_path):
    result = quantized(functional(Token(), OwnKernel()), epochs=1)
    result.save(tmp_path / "a.keras")
    loaded = kd.load_compressed(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(X), result.predict(X))


def test_16_bits_have_symmetric_ranges():
    result = quantized(functional(Attention()), activation_bits=16)
    for low, high in result.quantization["ranges"].values():
        assert low == -high < 0
