"""Size and agreement of every export format of one CNN, and what few calibration samples cost.

    TFDS_DATA_DIR=/path python benchmarks/export_formats.py [--epochs 2]

Trains a small CNN on Fashion-MNIST, exports it in every format, pruned and sparse too, and prints
for each file its bytes, its accuracy, and how often it answers as the Keras model does; then the
same for int8 with 1 to 256 calibration samples.
"""

import argparse
import pathlib
import tempfile
import warnings

import keras
import numpy as np
from keras import layers

import keras_kd as kd
from keras_kd.litert.runtime import LiteRuntime

SAMPLES = (1, 4, 16, 32, 64, 256)


def load(split):
    data = kd.datasets.load("fashion_mnist", split=split, batch_size=-1)
    return np.asarray(data["image"], np.float32) / 255, np.asarray(data["label"])


def build():
    i = keras.Input((28, 28, 1), name="image")
    x = i
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(256, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(i, layers.Dense(10, name="logits")(x))


def prune(model, sparsity):
    for layer in model.layers:
        for kernel in layer.weights[:1]:
            if len(kernel.shape) > 1:
                small = np.abs(kernel) < np.quantile(np.abs(kernel), sparsity)
                kernel.assign(np.where(small, 0.0, kernel))


def row(name, path, x, y, expected):
    runtime = LiteRuntime(path)
    parts = [runtime.predict({"image": x[s : s + 100]})["logits"] for s in range(0, len(x), 100)]
    outputs = np.concatenate(parts)
    answers = outputs.argmax(-1)
    print(
        f"{name:28}{path.stat().st_size:>10,}{np.mean(answers == y):>10.4f}"
        f"{np.mean(answers == expected.argmax(-1)):>11.4f}"
        f"{np.mean(np.abs(outputs - expected)):>17.4f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    keras.utils.set_random_seed(0)
    (x, y), (test_x, test_y) = load("train"), load("test")
    test_x, test_y = test_x[:4000], test_y[:4000]
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss=loss)
    model.fit(x[:20000], y[:20000], batch_size=128, epochs=arguments.epochs, verbose=0)
    expected = model.predict(test_x, verbose=0)
    print(f"{'':28}{'bytes':>10}{'accuracy':>10}{'agreement':>11}{'mean difference':>17}")
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "model.tflite"

        def export(quantization, samples=256, **options):
            data = x[:samples]
            kd.export_tflite(
                model, path, quantization, representative_data=data, verbose=False, **options
            )
            return path

        for quantization in ("float32", "float16", "dynamic", "int8", "int16x8", "int4"):
            row(quantization, export(quantization), test_x, test_y, expected)
        for samples in SAMPLES:
            file = export("int8", samples)
            row(f"int8, {samples} samples", file, test_x, test_y, expected)
        prune(model, 0.8)
        expected = model.predict(test_x, verbose=0)
        for quantization in ("float32", "float16", "dynamic", "int8", "int16x8"):
            for sparse in (False, True):
                file = export(quantization, sparse=sparse)
                kind = "sparse" if sparse else "dense"
                row(f"80 % zeros, {quantization}, {kind}", file, test_x, test_y, expected)


if __name__ == "__main__":
    main()
