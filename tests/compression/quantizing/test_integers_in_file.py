"""Zeros and shared values, counted in the model and in the int8 file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.compression.compress import compress

pytestmark = pytest.mark.promise


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 96)
    images = generator.normal(0, 0.3, (96, 8, 8, 1)).astype("float32")
    images[np.arange(96), :, labels * 2] += 1.5
    return tf.data.Dataset.from_tensor_slices((images, labels.astype("int32"))).batch(32)


@pytest.fixture(scope="module")
def distiller(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = inputs
    regularizer = keras.regularizers.L2(1e-3)
    for name, filters in (("a", 8), ("b", 12)):
        x = layers.Conv2D(
            filters, 3, use_bias=False, kernel_regularizer=regularizer, name=f"conv_{name}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.7)(x))
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(x))
    student = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    teacher = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence()], student_loss_weight=1.0)
    distiller.compile(
        keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    distiller.fit(data, epochs=8, verbose=0)
    return distiller


def _file_kernels(path):
    """Return the int8 constants of the file that have two and more axes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    kernels = []
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.int8 and len(detail["shape"]) >= 2:
            try:
                value = interpreter.get_tensor(detail["index"])
            except ValueError:
                continue
            if value.size in (72, 864, 3072, 48):
                kernels.append(value)
    return {72: "conv_a", 864: "conv_b", 3072: "hidden", 48: "logits"}, kernels


def _kernel(model, name):
    return next(w for w in model.get_layer(name).get_weights() if w.ndim >= 2)


@pytest.mark.parametrize(
    ("per_channel", "pruned"), [(False, True), (False, False), (True, True)], ids=str
)
def test_zeros_and_values_in_the_file(distiller, data, tmp_path, per_channel, pruned):
    stages = [
        *([kd.Prune(0.5, epochs=2, exclude="logits")] if pruned else []),
        kd.Cluster(6, epochs=2, per_channel=per_channel, learning_rate=1e-3),
    ]
    clustered = compress(distiller, data, stages=stages, verbose=0)
    stages.append(kd.QuantizeAware(epochs=3, learning_rate=1e-3))
    result = compress(distiller, data, validation_data=data, stages=stages, verbose=0)
    records = {record.name: record for record in result.layers}
    kd.export_tflite(
        result, tmp_path / "model.tflite", quantization="int8", representative_data=data
    )
    names, kernels = _file_kernels(tmp_path / "model.tflite")
    assert {names[kernel.size] for kernel in kernels} == set(names.values())
    for integers in kernels:
        name = names[integers.size]
        floats = _kernel(result.model, name)
        by_channel = per_channel and name.startswith("conv")
        # The file has the output channels in front, each with a scale of its own.
        groups = integers.reshape(len(integers) if by_channel else 1, -1)
        assert max(len(np.unique(group)) for group in groups) <= 6, name
        groups = np.moveaxis(floats, -1, 0) if by_channel else [floats]
        assert max(len(np.unique(group)) for group in groups) <= 6, name
        assert records[name].clusters <= 6 and records[name].bits == 8
        assert (integers == 0).mean() >= (floats == 0).mean() - 1e-9, name
        if pruned and name != "logits":
            assert (integers == 0).mean() >= 0.5 - 1 / integers.size, name
            before = clustered.model.get_layer(name).get_weights()[0]
            assert records[name].sparsity >= 0.5 - 1 / before.size
    measured = kd.evaluate_tflite(tmp_path / "model.tflite", data)
    assert measured.accuracy == pytest.approx(result.evaluate(data)["accuracy"], abs=0.03)
    assert measured.accuracy > 0.9


def test_values_are_trained(distiller, data):
    stages = [kd.Cluster(6, learning_rate=1e-3), kd.QuantizeAware(epochs=2, learning_rate=1e-2)]
    results = [compress(distiller, data, stages=stages[:n], verbose=0) for n in (1, 2)]
    before = results[0].model.get_layer("hidden").get_weights()[0]
    after = _kernel(results[1].model, "hidden")
    assert len(np.unique(after)) >= 3
    assert np.abs(np.unique(after).mean() - np.unique(before).mean()) > 1e-4
