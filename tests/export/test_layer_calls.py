from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime


def network(shape, *made) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *made])
    generator = np.random.default_rng(0)
    for weight in model.weights:  # a scale of 1 and an offset of 0 would hide mistakes
        weight.assign(weight + 0.1 * generator.normal(size=weight.shape))
    return model


def samples(shape, count: int = 32) -> np.ndarray:
    sizes = tuple(8 if size is None else size for size in shape)
    return np.random.default_rng(1).normal(size=(count, *sizes)).astype("float32")


def outputs(path, x) -> np.ndarray:
    runtime = LiteRuntime(path)
    (output,) = runtime.predict({runtime.inputs[0].name: x}).values()
    return output


def operators(path) -> set[str]:
    return set(ModelFile(path.read_bytes()).operator_counts())


def export(model, path, quantization, x, **kwargs):
    data = None if quantization == "float32" else x
    return export_tflite(
        model, path, quantization, representative_data=data, verbose=False, **kwargs
    )


FORMS = [("float32", 1e-5), ("int8", 0.06), ("int16x8", 0.03)]


def assert_same(model, path, x, tolerance) -> None:
    expected = np.asarray(model(x, training=False))
    error = np.sqrt(np.mean(np.square(outputs(path, x) - expected)))
    assert error <= tolerance * expected.std()


@pytest.mark.fast_cases("2d-int8-0.06", "any-size-float32-1e-05")
@pytest.mark.parametrize(("quantization", "tolerance"), FORMS)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6, 4), lambda: layers.UpSampling1D(3)),
        ((6, 5, 4), lambda: layers.UpSampling2D((2, 3))),
        ((None, None, 4), lambda: layers.UpSampling2D(2)),
        ((4, 5, 6, 2), lambda: layers.UpSampling3D((2, 3, 1))),
    ],
    ids=["1d", "2d", "any-size", "3d"],
)
def test_nearest_upsampling_is_a_resize(tmp_path, shape, layer, quantization, tolerance):
    x = samples(shape)
    model = network(shape, layer())
    path = export(model, tmp_path / "a.tflite", quantization, x)
    assert "RESIZE_NEAREST_NEIGHBOR" in operators(path) and "TILE" not in operators(path)
    assert_same(model, path, x, tolerance)


def test_bilinear_upsampling_stays_bilinear(tmp_path):
    model = network((6, 6, 2), layers.UpSampling2D(2, interpolation="bilinear"))
    path = export(model, tmp_path / "a.tflite", "float32", None)
    assert operators(path) == {"RESIZE_BILINEAR"}
    assert_same(model, path, samples((6, 6, 2)), 1e-5)


@pytest.mark.fast_cases("causal-int8-0.06", "depthwise2d-int16x8-0.03", "separable2d-float32-1e-05")
@pytest.mark.parametrize(("quantization", "tolerance"), FORMS)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((16, 4), lambda: layers.Conv1D(4, 3, dilation_rate=2, padding="same", activation="relu")),
        ((16, 4), lambda: layers.Conv1D(4, 3, dilation_rate=3, padding="causal", use_bias=False)),
        ((12, 12, 4), lambda: layers.Conv2D(4, 3, dilation_rate=(2, 3), groups=2)),
        ((16, 4), lambda: layers.DepthwiseConv1D(3, dilation_rate=2, depth_multiplier=2)),
        ((12, 12, 4), lambda: layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")),
        ((12, 12, 4), lambda: layers.SeparableConv2D(5, 3, dilation_rate=2, padding="same")),
    ],
    ids=["conv1d", "causal", "grouped", "depthwise1d", "depthwise2d", "separable2d"],
)
def test_dilated_convolutions_stay_one_operator(tmp_path, shape, layer, quantization, tolerance):
    x = samples(shape)
    model = network(shape, layer())
    path = export(model, tmp_path / "a.tflite", quantization, x)
    assert not [name for name in operators(path) if "BATCH" in name]
    assert LiteRuntime(path).inputs[0].shape[0] is None
    assert_same(model, path, x, tolerance)


@pytest.mark.fast_cases(
    "layer-int8-0.06", "group2d-int16x8-0.03", "rms-int8-0.06", "unit-float32-1e-05"
)
@pytest.mark.parametrize(("quantization", "tolerance"), FORMS)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((8, 6), lambda: layers.LayerNormalization()),
        ((4, 5, 6), lambda: layers.LayerNormalization(axis=(1, 3), center=False)),
        ((8, 6), lambda: layers.GroupNormalization(2)),
        ((4, 5, 6), lambda: layers.GroupNormalization(3)),
        ((8, 6), lambda: layers.RMSNormalization()),
        ((8, 6), lambda: layers.UnitNormalization()),
    ],
    ids=["layer", "axes", "group", "group2d", "rms", "unit"],
)
def test_normalizations_are_integer_throughout(
    tmp_path, shape, layer, quantization, tolerance, recwarn
):
    x = samples(shape)
    model = network(shape, layer())
    assert kd.check(model, [], exports=quantization).ok
    path = export(model, tmp_path / "a.tflite", quantization, x)
    assert not [w for w in recwarn if "stay in float" in str(w.message)]
    assert_same(model, path, x, tolerance)


def test_a_layer_with_a_call_of_its_own_keeps_it(tmp_path):
    class Doubled(layers.UpSampling2D):
        def call(self, x):
            return 2 * super().call(x)

    model = network((4, 4, 2), Doubled(2))
    path = export(model, tmp_path / "a.tflite", "float32", None)
    assert_same(model, path, samples((4, 4, 2)), 1e-5)


def test_the_model_is_left_as_it_was(tmp_path):
    model = network((4, 4, 2), layers.UpSampling2D(2), layers.LayerNormalization())
    export(model, tmp_path / "a.tflite", "float32", None)
    assert all("call" not in vars(layer) for layer in model.layers)


class Dilated(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, shape[-1], 4))

    def call(self, x):
        return keras.ops.conv(x, self.kernel, padding="same", dilation_rate=2)


class Repeated(layers.Layer):
    def call(self, x):
        return keras.ops.repeat(keras.ops.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.promise
def test_what_an_open_batch_makes_worse_gets_a_fixed_one(tmp_path):
    x = samples((16, 3))
    model = network((16, 3), Dilated())
    path = export(model, tmp_path / "a.tflite", "float32", None)
    assert LiteRuntime(path).inputs[0].shape[0] == 1
    assert not [name for name in operators(path) if "BATCH" in name]
    assert_same(model, path, x, 1e-5)
    path = export(model, tmp_path / "b.tflite", "float32", None, batch_size=None)
    assert LiteRuntime(path).inputs[0].shape[0] is None
    assert_same(model, path, x, 1e-5)


@pytest.mark.promise
def test_an_open_batch_that_cannot_be_converted_is_the_reason(tmp_path):
    made = [layers.Conv2D(4, 3), Repeated(), Repeated(), layers.Conv2D(2, 1)]
    model = network((6, 6, 4), *made)
    with pytest.raises(ValueError, match="batch_size=None") as error:
        export(model, tmp_path / "a.tflite", "float32", None, batch_size=None)
    assert "no builtin operator" not in str(error.value)
    export(model, tmp_path / "b.tflite", "float32", None)


def test_two_upsamplings_take_a_batch_of_any_size(tmp_path):
    made = [layers.Conv2D(4, 3, padding="same"), layers.UpSampling2D(2), layers.UpSampling2D(2)]
    model = network((6, 6, 4), *made, layers.Conv2D(2, 1))
    path = export(model, tmp_path / "a.tflite", "float32", None, batch_size=None)
    assert_same(model, path, samples((6, 6, 4)), 1e-5)


@pytest.mark.parametrize(("quantization", "tolerance"), FORMS)
def test_products_of_many_axes(tmp_path, quantization, tolerance):
    shape = (3, 4, 8)
    layer = layers.EinsumDense("abcd,def->abcef", (3, 4, 2, 5), "relu", "ef")
    model, x = network(shape, layer), samples(shape)
    path = export(model, tmp_path / "a.tflite", quantization, x)
    assert_same(model, path, x, tolerance)


@pytest.mark.promise
def test_attention_over_windows_keeps_the_bits_that_it_was_trained_for(tmp_path):
    x = keras.Input((3, 4, 8))
    model = keras.Model(x, layers.Dense(2)(layers.MultiHeadAttention(2, 4)(x, x)))
    for weight in model.weights:  # a bias of 0 would vanish
        weight.assign(weight + 0.1 * np.random.default_rng(0).normal(size=weight.shape))
    distiller = kd.Distiller(keras.models.clone_model(model), model, kd.losses.LogitsMSE())
    distiller.compile("adam", "mse")
    data = samples((3, 4, 8)), np.zeros((32, 3, 4, 2), "float32")
    compressed = kd.compress(distiller, data, stages=[kd.QuantizeAware(epochs=0)], verbose=0)
    path = export(compressed, tmp_path / "a.tflite", "int8", None)
    error = np.abs(outputs(path, data[0]) - compressed.predict(data[0]))
    assert error.max() < 0.05 * np.ptp(compressed.predict(data[0]))
    file = ModelFile(path.read_bytes())
    kinds = [file.tensor(o.graph, o.input_indices[1]).kind
             for o in file.operators() if o.name == "FULLY_CONNECTED"]  # fmt: skip
    assert len(kinds) == 5 and set(kinds) == {"INT8"}


class ByKeyword(keras.Model):
    def __init__(self):
        super().__init__()
        self.steps = [
            layers.LayerNormalization(),
            layers.RMSNormalization(),
            layers.UnitNormalization(),
            layers.GroupNormalization(2),
            layers.Softmax(axis=[1, 2]),
            layers.Conv1D(3, 2, dilation_rate=2),
            layers.UpSampling1D(2),
        ]

    def call(self, x):
        for step in self.steps:
            x = step(**{"x" if isinstance(step, layers.RMSNormalization) else "inputs": x})
        return x


def test_layers_that_are_called_by_keyword(tmp_path):
    model, x = ByKeyword(), np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    expected = np.asarray(model(x))
    kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    found = outputs(tmp_path / "a.tflite", x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
