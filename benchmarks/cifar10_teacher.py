"""A teacher for CIFAR-10: a small residual network, trained from scratch.

    python benchmarks/cifar10_teacher.py --out exports/cifar10_teacher

The first layer is a fixed convolution that whitens 2 x 2 patches, as in Jordan, "94% on CIFAR-10 in
3.29 Seconds on a Single GPU" (2024, arXiv:2404.00498), and the kernels of the others are trained
with Muon, as in that author's later versions. The learning rate decays to zero twice. The last
5,000 training images are held out: the settings were chosen on them. An interrupted run resumes
when the command is rerun. The test images are used once, at the end. Writes `teacher.keras`,
`teacher.tflite` with weights of 16 bits, and `teacher.json` into `--out`.
"""

import argparse
import pathlib

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


class Muon(keras.optimizers.SGD):
    """SGD whose steps of convolution kernels are orthogonal matrices, of kernels of a fixed norm.

    A kernel is scaled to the norm of an orthogonal matrix of its shape before each step; batch
    normalization makes its norm irrelevant. All other weights are trained by SGD with momentum.
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Change a variable by its gradient."""
        if len(variable.shape) != 4:
            return super().update_step(gradient, variable, learning_rate)
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity + gradient)
        step = tf.reshape(gradient + self.momentum * velocity, (-1, variable.shape[-1]))
        step = tf.reshape(tf.transpose(orthogonal(tf.transpose(step))), variable.shape)
        scaled = variable * (variable.shape[-1] ** 0.5 / tf.norm(variable))
        self.assign(variable, scaled - learning_rate * step)
        return None


def decaying_muon(steps, rate, momentum=0.8):
    """Return the optimizer of a training, whose rate decays to zero."""
    decay = keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
    return Muon(decay, momentum=momentum, nesterov=True)


def orthogonal(matrix):
    """Return the orthogonal matrix that is nearest to a wide `matrix`, roughly.

    Three steps of the Newton-Schulz iteration of Muon, whose singular values end near 1.
    """
    matrix = matrix / (tf.norm(matrix) + 1e-7)
    for _ in range(3):
        square = tf.matmul(matrix, matrix, transpose_b=True)
        change = -4.7750 * square + 2.0315 * tf.matmul(square, square)
        matrix = 3.4445 * matrix + tf.matmul(change, matrix)
    return matrix


def network(images, widths, depth=1, activation="gelu", name="teacher"):
    """Return a residual network on images from 0 to 255, which ends in logits.

    Args:
        images: Training images, whose mean, variance and patches the first two layers take over.
        widths: The channels of each stage. Its first convolution halves both sides.
        depth: The further convolutions of each stage, each with a connection around it.
        activation: The function behind each convolution.
        name: The name of the model.
    """
    scale = keras.layers.Normalization(
        mean=images.mean((0, 1, 2)), variance=images.var((0, 1, 2)), name="scale"
    )
    first = keras.layers.Conv2D(24, 2, activation=activation, name="whitening")

    def block(x, width, pool):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = keras.layers.MaxPooling2D()(x) if pool else x
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        return keras.layers.Activation(activation)(x)

    inputs = keras.Input((32, 32, 3), name="image")
    x = first(scale(inputs))
    for width in widths:
        x = block(x, width, pool=True)
        for _ in range(depth):
            x = keras.layers.Add()([x, block(x, width, pool=False)])
    x = keras.layers.GlobalMaxPooling2D()(x)
    outputs = keras.layers.Rescaling(1 / 9)(keras.layers.Dense(10, use_bias=False)(x))
    some = np.asarray(scale(images[:5_000].astype("float32")))
    first.set_weights([whitening(some), np.zeros(24)])
    first.trainable = False
    return keras.Model(inputs, outputs, name=name)


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
    for cycle, (epochs, rate) in enumerate(zip(chosen.epochs, chosen.rates, strict=True)):
        path = chosen.out / f"cycle_{cycle}.keras"
        if path.exists():
            model = keras.models.load_model(path, compile=False)
            continue
        steps = epochs * (len(train[0]) // chosen.batch_size)
        optimizer = decaying_muon(steps, rate, chosen.momentum)
        model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
        model.fit(
            augmented(*train, chosen.batch_size, erased=8),
            validation_data=held_out,
            epochs=epochs,
            callbacks=[keras.callbacks.BackupAndRestore(chosen.out / f"backup_{cycle}")],
            verbose=2,
        )
        model.save(path)
    model.save(chosen.out / "teacher.keras")
    kd.export_tflite(model, chosen.out / "teacher.tflite", "float16", verbose=False)
    found = {"parameters": model.count_params(), "epochs": sum(chosen.epochs)}
    for name, (x, y) in (("held_out", held_out), ("test", load("test"))):
        logits, mirrored = (model.predict(each, 500, verbose=0) for each in (x, x[:, :, ::-1]))
        found[name] = correct(logits, y)
        found[f"{name}_mirrored_too"] = correct(logits + mirrored, y)
    return found


def correct(logits, labels):
    """Return the percentage of logits that are largest at the label."""
    return round(100 * float(np.mean(logits.argmax(-1) == labels)), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("exports/cifar10_teacher"))
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 256])
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 10])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.12, 0.03])
    parser.add_argument("--momentum", type=float, default=0.8)
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--examples", type=int, help="training images [all but the held-out ones]")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    check_settings(chosen.out, {k: v for k, v in vars(chosen).items() if k != "out"})
    print(once(chosen.out / "teacher.json", lambda: trained(chosen)))


if __name__ == "__main__":
    main()
