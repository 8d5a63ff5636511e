"""A teacher for CIFAR-10: a small residual network, trained from scratch in minutes.

    python benchmarks/cifar10_teacher.py --out exports/cifar10_teacher

The first layer is a fixed convolution that whitens 2 x 2 patches, as in Jordan, "94% on CIFAR-10 in
3.29 Seconds on a Single GPU" (2024, arXiv:2404.00498). The last 5,000 training images are held out:
the settings were chosen on them. An interrupted run resumes when the command is rerun. The test
images are used once, at the end. Writes `teacher.keras` and `teacher.json` into `--out`.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from kept_results import check_settings, once

import keras_kd as kd

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load(split, dtype="uint8"):
    """Return images (0 ... 255) and labels."""
    images, labels = kd.datasets.load("cifar10", split=split, as_supervised=True, batch_size=-1)
    return np.asarray(images, dtype), np.asarray(labels, "int64")


def augmented(images, labels, batch_size, shift=4, erased=0):
    """Return shuffled batches of images, shifted, mirrored and erased at random.

    Args:
        images: Images of shape `(samples, 32, 32, 3)`.
        labels: Labels of shape `(samples,)`.
        batch_size: Images in a batch. An incomplete last batch is dropped.
        shift: The largest shift, in pixels. What moves in is a reflection.
        erased: The side, in pixels, of a square that is set to gray.
    """

    def change(image, label):
        image = tf.pad(image, [[shift, shift], [shift, shift], [0, 0]], "REFLECT")
        image = tf.image.random_crop(image, (32, 32, 3))
        image = tf.image.random_flip_left_right(image)
        if erased:
            corner = tf.random.uniform((2,), 0, 33 - erased, tf.int32)
            distance = tf.stack(tf.meshgrid(tf.range(32), tf.range(32), indexing="ij"), -1) - corner
            inside = tf.reduce_all((distance >= 0) & (distance < erased), -1, keepdims=True)
            image = tf.where(inside, tf.cast(120, image.dtype), image)
        return image, label

    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    return data.map(change, num_parallel_calls=2).batch(batch_size, drop_remainder=True).prefetch(4)


def whitening(images, size=2):
    """Return kernels that whiten patches of `images`: the directions of variance, both signs."""
    patches = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * images.shape[-1])
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    filters = vectors / np.sqrt(values + 1e-2)
    filters = filters.reshape(size, size, images.shape[-1], -1)
    return np.concatenate([filters, -filters], -1)


def network(images, widths):
    """Return a residual network on images from 0 to 255, which ends in logits."""
    scale = keras.layers.Normalization(
        mean=images.mean((0, 1, 2)), variance=images.var((0, 1, 2)), name="scale"
    )
    first = keras.layers.Conv2D(24, 2, activation="gelu", name="whitening")

    def block(x, width, pool):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = keras.layers.MaxPooling2D()(x) if pool else x
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        return keras.layers.Activation("gelu")(x)

    inputs = keras.Input((32, 32, 3), name="image")
    x = first(scale(inputs))
    for width in widths:
        x = block(x, width, pool=True)
        x = keras.layers.Add()([x, block(x, width, pool=False)])
    x = keras.layers.GlobalMaxPooling2D()(x)
    outputs = keras.layers.Rescaling(1 / 9)(keras.layers.Dense(10, use_bias=False)(x))
    some = np.asarray(scale(images[:5_000].astype("float32")))
    first.set_weights([whitening(some), np.zeros(24)])
    first.trainable = False
    return keras.Model(inputs, outputs, name="teacher")


def trained(chosen):
    """Train, save and measure the teacher."""
    images, labels = load("train")
    train, held_out = [
        (images[part], labels[part])
        for part in (slice(None, -chosen.held_out), slice(-chosen.held_out, None))
    ]
    if chosen.examples:
        train = tuple(part[: chosen.examples] for part in train)
    keras.utils.set_random_seed(chosen.seed)
    model = network(train[0], chosen.widths)
    steps = chosen.epochs * (len(train[0]) // chosen.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 5, warmup_target=chosen.rate, warmup_steps=steps // 5
    )
    optimizer = keras.optimizers.SGD(
        rate, momentum=0.9, nesterov=True, weight_decay=chosen.weight_decay
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    start = time.time()
    model.fit(
        augmented(*train, chosen.batch_size, erased=8),
        validation_data=held_out,
        epochs=chosen.epochs,
        callbacks=[keras.callbacks.BackupAndRestore(chosen.out / "backup")],
        verbose=2,
    )
    seconds = round(time.time() - start)
    model.save(chosen.out / "teacher.keras")
    found = {"parameters": model.count_params(), "seconds": seconds, "epochs": chosen.epochs}
    for name, data in (("held_out", held_out), ("test", load("test"))):
        result = model.evaluate(*data, 500, verbose=0, return_dict=True)
        found[name] = round(100 * result["accuracy"], 2)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/cifar10_teacher"))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 256])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--weight-decay", type=float, default=5e-3)
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--examples", type=int, help="training images [all but the held-out ones]")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    check_settings(chosen.out, {k: v for k, v in vars(chosen).items() if k != "out"})
    print(once(chosen.out / "teacher.json", lambda: trained(chosen)))


if __name__ == "__main__":
    main()
