"""What `quantize_within` makes of networks with a planted fault, beside int8 alone.

    TFDS_DATA_DIR=/path python benchmarks/planted_faults.py [--data fashion_mnist] [--epochs 3]

Trains a small CNN on Fashion-MNIST or the digits and plants a fault that changes nothing in float:
a channel whose BatchNormalization is nearly dead, a mask of -1e9, or a kernel whose channels are a
thousand times apart. Prints, on test images that decided nothing, the points of accuracy that int8
alone and `quantize_within` lose, the bytes, and the share of the operations in integers.
"""

import argparse
import pathlib
import tempfile
import warnings

import keras
import numpy as np
from keras import layers

import keras_kd as kd
from keras_kd.system.text_table import markdown_table

FAULTS = ("none", "dead channel", "mask of -1e9", "channels 1000 times apart")


def load(name):
    """Return training images and labels, and those of the test."""
    parts = [kd.datasets.load(name, split=split, batch_size=-1) for split in ("train", "test")]
    pairs = [(np.asarray(p["image"], np.float32) / 255, np.asarray(p["label"])) for p in parts]
    if name == "digits":  # of few images, half are to tell what a file loses
        x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
        pairs = [(x[:800], y[:800]), (x[800:], y[800:])]
    return pairs


def build(size, masked):
    """Return a network of which the first two convolutions are small, as is usual."""
    image = keras.Input((size, size, 1), name="image")
    x = image
    for i, filters in enumerate((8, 8, 32, 64, 64)):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
        if i == 1:
            x = layers.MaxPooling2D(name="halved")(x)
    x = layers.Reshape((-1, 64), name="places")(x)
    if masked:  # weighs the places of the image that are not empty
        seen = layers.Flatten(name="seen_places")(layers.MaxPooling2D(name="seen")(image))
        empty = keras.ops.cast(keras.ops.less_equal(seen, 0.0), "float32")
        scores = layers.Flatten(name="scores_of_places")(layers.Dense(1, name="scores")(x))
        masked = layers.Add(name="masked")([scores, empty * -1e9])
        x = layers.Dot(1, name="weighed")([layers.Softmax(name="weights")(masked), x])
    else:
        x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="network")


def plant(model, fault):
    """Scale channels of the first block up, and the weights that read them down."""
    norm, following = model.get_layer("norm0"), model.get_layer("conv1")
    factors = np.ones(8)
    if fault == "dead channel":  # what a variance of nearly zero makes of it
        factors[3] = 1000.0
    if fault == "channels 1000 times apart":
        factors = np.geomspace(1.0, 1000.0, 8)
    norm.gamma.assign(np.asarray(norm.gamma) * factors)
    norm.beta.assign(np.asarray(norm.beta) * factors)
    following.kernel.assign(np.asarray(following.kernel) / factors[:, None])


def make(fault, images, labels, epochs):
    """Return a trained network with a fault."""
    keras.utils.set_random_seed(0)
    model = build(images.shape[1], fault.startswith("mask"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    plant(model, fault)
    return model


def measure(model, train, test, folder, max_drop):
    """Return what int8 alone loses, and what `quantize_within` returns."""
    found = kd.quantize_within(
        model,
        test,
        folder / "within.tflite",
        max_drop=max_drop,
        representative_data=train,
        max_samples=2048,
        verbose=False,
    )
    plain = kd.export_tflite(
        model, folder / "plain.tflite", "int8", train, calibration="minmax", verbose=False
    )
    x, y = test
    result = kd.evaluate_tflite(plain, (x[:1024], y[:1024]), model, verbose=False)
    return 100 * (result.model_accuracy - result.accuracy), plain.stat().st_size, found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion_mnist", choices=("fashion_mnist", "digits"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-drop", type=float, default=0.5)
    arguments = parser.parse_args()
    train, test = load(arguments.data)
    rows = [["fault", "int8: points lost", "bytes", "within: points lost", "bytes",
             "operations in integers", "not in 8 bits"]]  # fmt: skip
    for fault in FAULTS:
        model = make(fault, *(part[:20_000] for part in train), arguments.epochs)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lost, size, found = measure(
                model, train, test, pathlib.Path(folder), arguments.max_drop
            )
        print(fault, found, sep="\n", flush=True)
        others = ", ".join(f"{form}: {' '.join(names)}" for form, names in found.exclude.items())
        rows.append([
            fault, f"{lost:.2f}", f"{size:,}", f"{found.drop:.2f}", f"{found.bytes:,}",
            f"{found.integer_operations:.1%}", others or "–",
        ])  # fmt: skip
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
