import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.running.compressed_model import CompressedModel
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.sizes import zipped_size


def make_student():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(8, 3, use_bias=False, name="folded")(images)
    x = layers.BatchNormalization(name="normalization")(x)
    x = layers.ReLU()(x)
    x = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, activation="relu", name="transposed")(x)
    x = layers.Reshape((144, 6))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Conv1D(6, 3, strides=4, name="sequence")(x)
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(x))
    student = keras.Model(images, layers.Dense(4, name="logits")(x))
    generator = np.random.default_rng(0)
    for weight in student.weights:
        noise = generator.uniform(0.2, 2.0, weight.shape[-1:])
        if "kernel" in weight.name:
            weight.assign(weight * noise)  # channels of very different sizes
        elif weight.path.startswith("normalization"):
            weight.assign(noise)
    return student


def data():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(64, 8, 8, 3)).astype("float32")
    return x, generator.integers(0, 4, 64)


def compressed(*stages):
    distiller = kd.Distiller(None, make_student(), [], student_loss_weight=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss)
    return kd.compress(distiller, data(), stages=stages, verbose=0)


STAGES = {
    "clustered": lambda: [kd.Cluster(6, epochs=0)],
    "trained": lambda: [kd.Cluster(6, epochs=0), kd.QuantizeAware(epochs=0)],
    "pruned": lambda: [kd.Prune(0.5, epochs=0), kd.Cluster(6, epochs=0), kd.QuantizeAware(1)],
}
CLUSTERED = ("CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@pytest.fixture(scope="module")
def students():
    return functools.cache(lambda chain: compressed(*STAGES[chain]()))


def kernels_in(content):
    """Return operator, integers and scales of every kernel of 8 bits in a file."""
    found = {}
    for graph in ModelFile(content).graphs():
        for operator in graph.operators:
            if operator.name not in CLUSTERED:
                continue
            index = operator.input_indices[int(operator.name != "DEQUANTIZE")]
            tensor = graph.tensors[index]
            if tensor.kind == "INT8" and tensor.constant:
                integers = tensor.data.view(np.int8).reshape(tensor.shape)
                found[index] = operator.name, integers, tensor.scales
    return list(found.values())


def error(path, student):
    """Return the root mean square of what a file is off, in parts of the outputs' spread."""
    x, _ = data()
    file, expected = LiteRuntime(path), student.predict(x)
    given = [file.predict({"images": row[None]})[file.output_names[0]] for row in x]
    return np.sqrt(np.mean((np.concatenate(given) - expected) ** 2)) / expected.std()


@pytest.mark.promise
@pytest.mark.parametrize(
    ("chain", "form", "kernels"),
    [("trained", "int8", 10), ("pruned", "int8", 10), ("clustered", "int8", 10),
     ("clustered", "int16x8", 10), ("clustered", "dynamic", 1),
     ("clustered", "weight_only", 1)],
)  # fmt: skip
def test_equal_values_are_equal_integers_in_the_file(
    students, tmp_path, monkeypatch, chain, form, kernels
):
    student = students(chain)

    def export(name):
        arguments = {"on_disagreement": "ignore", "verbose": False}
        arguments["representative_data"] = data()[0]
        return kd.export_tflite(student, tmp_path / f"{name}.tflite", form, **arguments)

    path = export("as_a_whole")
    found = [part for part in kernels_in(path.read_bytes()) if part[0] in CLUSTERED]
    assert len(found) == kernels
    for name, integers, scales in found:
        assert len(np.unique(integers)) <= 6, (name, integers.shape)
        assert (len(scales) == 1) == (name == "FULLY_CONNECTED" and form[0] == "i")
    if chain == "pruned":
        zeros = {integers.size: np.mean(integers == 0) for _, integers, _ in found}
        for size in (216, 3456):  # the first convolution and the hidden layer
            assert zeros[size] >= 0.5 - 1 / size
    monkeypatch.setattr("keras_kd.export.conversion.share_values", lambda file, kernels: None)
    before = export("by_channel")
    most = [len(np.unique(part[1])) for part in kernels_in(before.read_bytes())]
    assert max(most) > 6, "the converter gives every channel its own integers"
    assert zipped_size(path) < zipped_size(before)
    assert error(path, student) < 0.2
    if chain != "clustered":  # trained in one step for the whole kernel
        assert error(path, student) < error(before, student)


@pytest.mark.parametrize("form", ["int8", "float32"])
def test_what_a_normalization_multiplies_by_is_a_part_of_the_scales(tmp_path, form):
    generator = np.random.default_rng(0)
    images = keras.Input((6, 6, 2), name="images")
    x = layers.Conv2D(4, 3, name="conv")(images)
    model = keras.Model(images, layers.BatchNormalization(epsilon=0.0, name="norm")(x))
    kernel = generator.choice([-0.5, 0.0, 0.2, 0.7], (3, 3, 2, 4))
    kernel[..., 3] = 0.2  # a channel without the largest value
    gamma = np.array([0.1, 3.0, -2.0, 1.0])
    model.get_layer("conv").set_weights([kernel, generator.normal(size=4)])
    moving = [generator.normal(size=4), np.full(4, 4.0)]
    model.get_layer("norm").set_weights([gamma, generator.normal(size=4), *moving])
    student = CompressedModel(model, [], {}, False, clustered={"conv": "kernel"})
    x = generator.normal(size=(32, 6, 6, 2)).astype("float32")
    path = kd.export_tflite(
        student, tmp_path / "m.tflite", form, representative_data=x, verbose=False
    )
    found = kernels_in(path.read_bytes())
    assert len(found) == (form == "int8")
    for _, integers, scales in found:
        step = 0.7 / 127
        expected = np.round(kernel / step) * np.sign(gamma)
        np.testing.assert_array_equal(integers, np.moveaxis(expected, -1, 0))
        np.testing.assert_allclose(scales, np.abs(gamma) / 2 * step, rtol=1e-5)
    file = LiteRuntime(path)
    given = np.concatenate([file.predict({"images": row[None]})[file.output_names[0]] for row in x])
    steps = np.abs(given - model.predict(x, verbose=0)).max() / np.ptp(given) * 255
    assert steps < 3


def test_a_student_that_was_saved_knows_what_is_shared(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="dense")])
    CompressedModel(model, [], {}, False, clustered={"dense": "kernel"}).save(tmp_path / "m.keras")
    assert kd.load_compressed(tmp_path / "m.keras").clustered == {"dense": "kernel"}


@pytest.mark.promise
def test_dense_kernels_have_one_scale_where_that_loses_nothing(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    inputs = keras.Input((32,), name="given")
    x = inputs
    for units in (128, 96, 64, 4):
        x = layers.Dense(units, "relu" if units > 4 else None, name=f"dense_{units}")(x)
    model = keras.Model(inputs, x)
    # An enormous weight of what is always zero: one scale for all would leave no steps to others.
    first, second = model.get_layer("dense_128"), model.get_layer("dense_96")
    kernel, bias = first.get_weights()
    kernel[:, 7], bias[7] = 0.0, -1.0
    first.set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[7, 3] = 50.0
    second.set_weights([kernel, bias])
    x = generator.normal(size=(1024, 32)).astype("float32")

    def export(name):
        return kd.export_tflite(model, tmp_path / f"{name}.tflite", "int8", x, verbose=False)

    file = export("merged")
    found = {integers.shape: len(scales) for _, integers, scales in kernels_in(file.read_bytes())}
    del found[4, 64]  # four scales, which may go or stay
    assert found == {(128, 32): 1, (96, 128): 96, (64, 96): 1}
    monkeypatch.setattr("keras_kd.export.ways.merge_scales", lambda file, *_: file)
    before = export("separate")
    assert file.stat().st_size < before.stat().st_size - 8 * (128 + 64)
    assert file.fidelity.signal_to_noise_db >= before.fidelity.signal_to_noise_db - 0.1


@pytest.mark.promise
@pytest.mark.parametrize(("form", "small"), [("int8", 1.0), ("int16x8", 1e-3)])
def test_a_kernel_of_several_signatures_is_rounded_for_all_of_them(tmp_path, form, small):
    generator = np.random.default_rng(0)
    inputs = keras.Input((4,), name="given")
    x = layers.Dense(200, name="embedding")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    kernel = generator.normal(size=(4, 200)) / np.sqrt(4)
    kernel[:, ::2] *= small  # the logits do not need these channels, the embedding does
    kernel /= np.abs(kernel).max(0) / np.where(np.arange(200) % 2, 1.0, small)
    model.get_layer("embedding").kernel.assign(kernel)
    x = generator.normal(size=(600, 4)).astype("float32")
    signatures = {"answer": None, "embed": "embedding"}
    path = tmp_path / "a.tflite"
    kd.export_tflite(model, path, form, x, signatures=signatures, verbose=False)
    found = [
        tensor
        for graph in ModelFile(path.read_bytes()).graphs()
        for tensor in graph.tensors
        if tensor.shape == (200, 4) and tensor.constant
    ]
    assert len(found) == 2 and len({tensor.buffer for tensor in found}) == 1
    assert [len(tensor.scales) for tensor in found] == [1 if form == "int8" else 200] * 2
    assert found[0].data.reshape(200, 4).any(1).all()
