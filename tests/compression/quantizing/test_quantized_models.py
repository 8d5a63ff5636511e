"""Quantized students of many kinds: loaded again, and in a file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile

X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")


@keras.saving.register_keras_serializable("test_quantized_models")
class InLists(layers.Layer):
    """Holds layers in lists, which have no names of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(8, activation="gelu"), layers.Dense(3)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


@keras.saving.register_keras_serializable("test_quantized_models")
class InCode(keras.Model):
    """A subclassed model whose layers Keras names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.pool = layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()
        self.blocks = [InLists(), InLists()]

    def call(self, x):
        x = self.pool(ops.relu(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return x


def in_code():
    model = InCode()
    model(X[:1])
    return model


def in_lists():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    return keras.Model(image, InLists()(x))


def nested_in_code():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(3)(InCode()(image)))


def compressed(student, *stages, x=X):
    teacher = (
        keras.models.clone_model(student) if hasattr(student, "_nodes_by_depth") else in_code()
    )
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(), None, 0.0)
    distiller.compile("adam")
    return kd.compress(distiller, (x, np.zeros(16)), stages=list(stages), verbose=0)


@pytest.mark.parametrize("build", [in_code, in_lists, nested_in_code])
@pytest.mark.promise
def test_ranges_find_their_layers_in_a_model_that_was_loaded(build, tmp_path):
    result = compressed(build(), kd.QuantizeAware(epochs=0))
    result.save(tmp_path / "model.keras")
    in_lists(), in_code()  # Keras counts on
    loaded = kd.load_compressed(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X), result.predict(X))


@pytest.mark.promise
def test_records_of_a_subclassed_student_say_what_was_done():
    student = in_code()
    result = compressed(student, kd.Cluster(4, epochs=1), kd.QuantizeAware(epochs=0))
    assert [record.name for record in result.layers] == [layer.name for layer in student.layers]
    conv, *_ = result.layers
    assert conv.clusters == 4 and conv.bits == 8


@pytest.mark.promise
def test_a_run_is_resumed_with_the_ranges_of_a_subclassed_student(tmp_path):
    student = in_code()
    stages = [kd.QuantizeAware(epochs=0)]
    distiller = kd.Distiller(in_code(), student, kd.losses.KLDivergence(), None, 0.0)
    distiller.compile("adam")
    data = (X, np.zeros(16))
    first = kd.compress(distiller, data, stages=stages, path=tmp_path / "run", verbose=0)
    second = kd.compress(distiller, data, stages=stages, path=tmp_path / "run", verbose=0)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))


def exported(result, path, x=X):
    """Return the int8 file without representative data, and its outputs for `x`."""
    from keras_kd.litert.runtime import LiteRuntime

    kd.export_tflite(result, path, "int8", verbose=False)
    runtime = LiteRuntime(path)
    names = [given.name for given in runtime.inputs]
    outputs = runtime.predict(dict(zip(names, keras.tree.flatten(x), strict=True)))
    return ModelFile(path.read_bytes()), next(iter(outputs.values()))


def sum_of_four(x):
    parts = [layers.Conv2D(4, 3, dilation_rate=rate, padding="same")(x) for rate in (1, 2, 1, 2)]
    return layers.Conv2D(4, 1)(layers.ReLU()(layers.Add()(parts)))


def product_of_three(x):
    parts = [layers.Conv2D(4, 3, padding="same", activation="sigmoid")(x) for _ in range(3)]
    return layers.Conv2D(4, 1)(layers.Multiply()(parts))


def largest_of_three(x):
    return layers.Conv2D(4, 1)(layers.Maximum()([layers.Conv2D(4, 1)(x) for _ in range(3)]))


@pytest.mark.parametrize("merge", [sum_of_four, product_of_three, largest_of_three])
@pytest.mark.promise
def test_a_merge_of_several_inputs_computes_in_integers(merge, tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(merge(image))
    result = compressed(keras.Model(image, layers.Dense(3)(x)), kd.QuantizeAware(epochs=0))
    file, outputs = exported(result, tmp_path / "model.tflite")
    assert not file.float_operators()
    expected = result.predict(X)
    assert np.abs(outputs - expected).max() <= 4 * np.ptp(expected) / 255


def encoded_layer(kind):
    return layers.CategoryEncoding(8, output_mode="one_hot")(kind)


def encoded_sum(kind):
    return ops.sum(ops.one_hot(kind, 8), axis=1)


def encoded_operation(kind):
    return ops.reshape(ops.one_hot(kind, 8), (-1, 8))


@pytest.mark.parametrize("encode", [encoded_layer, encoded_sum, encoded_operation])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.promise
def test_one_hot_inputs_are_exported(encode, alone, tmp_path):
    kind, numbers = keras.Input((1,), dtype="int32"), keras.Input((4,))
    x = encode(kind)
    x = x if alone else layers.Concatenate()([x, numbers])
    x = layers.Dense(3)(layers.Dense(8, activation="relu")(x))
    student = keras.Model(kind if alone else [kind, numbers], x)
    kinds = (np.arange(16)[:, None] % 8).astype("int32")
    given = kinds if alone else (kinds, X[:, 0, 0, :1].repeat(4, 1))
    result = compressed(student, kd.QuantizeAware(epochs=0), x=given)
    file, outputs = exported(result, tmp_path / "model.tflite", given)
    assert "FULLY_CONNECTED" not in {operator.name for operator in file.float_operators()}
    expected = np.asarray(result(list(given) if isinstance(given, tuple) else given))
    assert np.abs(outputs - expected).max() <= 2.01 * np.ptp(expected) / 255 + 1e-6


@keras.saving.register_keras_serializable("test_quantized_models")
class SameNames(layers.Layer):
    """Holds layers of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4, name="part") for _ in range(3)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.promise
def test_layers_of_one_name_are_all_quantized(tmp_path):
    given = keras.Input((4,))
    student = keras.Model(given, SameNames()(given))
    x = X[:, 0, :4, 0]
    result = compressed(student, kd.QuantizeAware(epochs=0), x=x)
    file, _ = exported(result, tmp_path / "model.tflite", x)
    assert not file.float_operators() and file.operator_counts()["FULLY_CONNECTED"] == 3


@keras.saving.register_keras_serializable("test_quantized_models")
class WithNothing(layers.Layer):
    """Returns a tensor without values beside its outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, x):
        return self.dense(x), ops.zeros((0, 3))


def test_a_tensor_without_values_is_not_quantized():
    given = keras.Input((4,))
    student = keras.Model(given, layers.Dense(3)(WithNothing()(given)[0]))
    result = compressed(student, kd.QuantizeAware(epochs=0), x=X[:, 0, :4, 0])
    sites = [site for site in result.quantization["sites"] if site["path"].startswith("with")]
    assert {site["output"] for site in sites} == {0}


@keras.saving.register_keras_serializable("test_quantized_models")
class HoldsConstants(layers.Layer):
    """Gives another layer a constant that was made before the call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.product = ops.convert_to_tensor([[2.0, 3.0, 4.0]]), layers.Multiply()

    def call(self, x):
        return self.product([x, self.scale])


def scaled_by_a_layer(x):
    return HoldsConstants()(x)


def scaled_by_an_operation(x):
    return x * ops.convert_to_tensor([2.0, 3.0, 4.0])


def shifted_by_an_operation(x):
    return ops.add(ops.convert_to_tensor([[2.0, 3.0, 4.0]]), x)


@pytest.mark.parametrize(
    "constant", [scaled_by_a_layer, scaled_by_an_operation, shifted_by_an_operation]
)
@pytest.mark.promise
def test_constants_that_a_model_holds_are_inputs_like_others(constant):
    given = keras.Input((4,))
    student = keras.Model(given, layers.Dense(3)(constant(layers.Dense(3)(given))))
    x = X[:, 0, :4, 0]
    result = compressed(student, kd.QuantizeAware(epochs=0), x=x)
    spread = np.ptp(student.predict(x, verbose=0))
    np.testing.assert_allclose(result.predict(x), student.predict(x, verbose=0), atol=spread / 20)


@pytest.mark.parametrize(
    "norm",
    [layers.LayerNormalization(), layers.LayerNormalization((1, 2)), layers.GroupNormalization(2)],
)
@pytest.mark.promise
def test_the_mean_of_a_normalization_is_not_rounded_to_the_step_of_its_input(norm, tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, bias_initializer="ones")(image)
    student = keras.Model(image, layers.Conv2D(4, 1)(norm(x)))
    result = compressed(student, kd.QuantizeAware(epochs=0))
    file, _ = exported(result, tmp_path / "model.tflite")
    means = [o for o in file.operators() if o.name in ("MEAN", "SUM")]
    assert means and all(kind == "FLOAT32" for o in means for kind in o.output_types)
