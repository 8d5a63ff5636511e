"""The models of `benchmarks/export_truth.py`: trained, published, large, with planted faults.

Each function returns a model, the samples that calibrate it, those it is measured on with their
labels (`None` where it has none), and with labels those that `kd.quantize_within` decides on. What
trains does so in seconds, on data that is at hand.
"""

import os
import pathlib

import application_models
import cifar10_teacher
import keras
import numpy as np
from keras import layers
from slim_files import keyword_spotting

import keras_kd as kd

CALIBRATION = 256
SAMPLES = 1000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digits():
    """Return images and labels of the embedded digits: to train, to decide and to test on.

    Those to decide on are few where all are held out: the training images are among them.
    """
    parts = [kd.datasets.load("digits", split=split, batch_size=-1) for split in ("train", "test")]
    x = np.concatenate([np.asarray(part["image"], "float32") for part in parts]) / 255.0
    y = np.concatenate([np.asarray(part["label"]) for part in parts])
    return [(x[i:j], y[i:j]) for i, j in ((0, 800), (0, 1200), (1200, None))]


def fitted(model, x, y, epochs, rate=0.003):
    """Train a classifier that ends in logits."""
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return model


def convolutional(name):
    """A small convolutional network, each BatchNormalization behind its activation."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(image)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="second")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="third")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(layers.Flatten()(x)), name=name)


def student():
    (x, y), deciding, test = digits()
    return fitted(convolutional("student"), x, y, 20), x[:CALIBRATION], test, deciding


def pruned_student():
    """The same student, 75 % of its weights zero."""
    (x, y), deciding, test = digits()
    teacher = fitted(convolutional("teacher"), x, y, 20)
    distiller = kd.Distiller(
        teacher, keras.models.clone_model(teacher), kd.losses.KLDivergence(4.0)
    )
    distiller.student.set_weights(teacher.get_weights())
    distiller.compile(keras.optimizers.Adam(0.003), LOSS)
    compressed = kd.compress(distiller, (x, y), stages=kd.Prune(0.75, epochs=10), verbose=0)
    return compressed.model, x[:CALIBRATION], test, deciding


def vision_transformer():
    """A small vision transformer of Keras's own layers, trained on the digits."""
    (x, y), deciding, test = digits()
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    h = layers.Reshape((16, 32))(layers.Conv2D(32, 2, strides=2)(image))
    h = layers.Add()([h, layers.Embedding(16, 32)(keras.ops.arange(16)[None])])
    for _ in range(2):
        normed = layers.LayerNormalization()(h)
        h = layers.Add()([h, layers.MultiHeadAttention(2, 16)(normed, normed)])
        normed = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(h))
        h = layers.Add()([h, layers.Dense(32)(normed)])
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    model = fitted(keras.Model(image, layers.Dense(10)(h), name="vit"), x, y, 30)
    return model, x[:CALIBRATION], test, deciding


def reviews(words=5000, length=64):
    """Return movie reviews, 0 for padding, and labels: to train, to decide and to test on."""
    vectorize = layers.TextVectorization(words, output_sequence_length=length)
    parts = []
    for split in ("train[:4000]", f"test[{SAMPLES}:{2 * SAMPLES}]", f"test[:{SAMPLES}]"):
        text, labels = kd.datasets.load(
            "imdb_reviews", split=split, as_supervised=True, batch_size=-1
        )
        if not parts:
            vectorize.adapt(text)
        parts.append((np.asarray(vectorize(text), "int32"), np.asarray(labels)))
    return parts


def text_transformer():
    """A transformer whose attention masks the padding with a large negative number."""
    (x, y), deciding, test = reviews()
    keras.utils.set_random_seed(0)
    tokens = keras.Input((64,), dtype="int32")
    h = layers.Embedding(5000, 32)(tokens)
    mask = keras.ops.cast(keras.ops.equal(tokens, 0), "float32")[:, None, :] * -1e9
    query, key, value = (layers.Dense(32)(h) for _ in range(3))
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))) / 32**0.5
    h = layers.LayerNormalization()(h + keras.ops.matmul(keras.ops.softmax(scores + mask), value))
    model = keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)), name="text")
    return fitted(model, x, y, 4, 0.001), x[:CALIBRATION], test, deciding


def masked_pooling():
    """A network that weighs the places of an image which are not empty, masking the others."""
    (x, y), deciding, test = digits()
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    h = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    h = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Reshape((16, 32))(layers.Conv2D(32, 3, padding="same", activation="relu")(h))
    seen = layers.Flatten()(layers.MaxPooling2D(2)(image))
    empty = keras.ops.cast(keras.ops.less_equal(seen, 0.0), "float32")
    scores = layers.Add()([layers.Flatten()(layers.Dense(1)(h)), empty * -1e9])
    h = layers.Dot(1)([layers.Softmax()(scores), h])
    model = fitted(keras.Model(image, layers.Dense(10)(h), name="masked"), x, y, 40)
    return model, x[:CALIBRATION], test, deciding


def dead_channel():
    """The student; one channel behind its BatchNormalization is a thousand times the others."""
    model, *data = student()
    norm, following = model.get_layer("norm"), model.get_layer("second")
    gamma, beta = np.array(norm.gamma), np.array(norm.beta)
    gamma[3], beta[3] = 1000 * gamma[3], 1000 * beta[3]
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    kernel = np.array(following.kernel)
    kernel[:, :, 3] /= 1000
    following.kernel.assign(kernel)
    return model, *data


def uneven_kernel():
    """The student; channels of one kernel lie a thousand times apart, evened out by the next."""
    model, *data = student()
    layer, following = model.get_layer("second"), model.get_layer("third")
    factors = np.geomspace(0.03, 30.0, 32).astype("float32")
    layer.kernel.assign(layer.kernel * factors)
    layer.bias.assign(layer.bias * factors)
    following.kernel.assign(following.kernel / factors[:, None])
    return model, *data


def application(name, module):
    """A network of keras.applications with random weights and calibrated BatchNormalization."""
    application_models.MODELS[name] = module, 96
    model, images = application_models.build(name, 192)
    return model, images[:64], (images[64:], None)


def resnet8(folder):
    images, test, deciding = (
        cifar10_teacher.load(split, "float32")
        for split in (f"train[:{CALIBRATION}]", f"test[:{SAMPLES}]", f"train[-{2 * SAMPLES}:]")
    )
    return kd.teachers.load(folder / "pretrainedResnet.h5"), images[0], test, deciding


def visual_wake_words(folder):
    """On smooth random images: the published data is not at hand."""
    images = application_models.images_of(96, CALIBRATION + 128) / 255.0
    model = kd.teachers.load(folder / "vww_96.h5")
    return model, images[:CALIBRATION], (images[CALIBRATION:], None)


def autoencoder(folder):
    """On random numbers with the spread of log-mel energies: the published data is not at hand."""
    generator = np.random.default_rng(0)
    shared = generator.normal(-40, 8, (CALIBRATION + 256, 1))
    values = (shared + generator.normal(0, 4, (CALIBRATION + 256, 640))).astype("float32")
    model = kd.teachers.load(folder / "ad01.h5")
    return model, values[:CALIBRATION], (values[CALIBRATION:], None)


def keyword(_):
    """On random numbers, with random weights: no published Keras model is at hand."""
    values = np.random.default_rng(0).normal(size=(CALIBRATION + 256, 49, 10, 1)).astype("float32")
    model = keyword_spotting()
    application_models.set_batch_statistics(model, values[:CALIBRATION])
    return model, values[:CALIBRATION], (values[CALIBRATION:], None)


def subjects(models=None):
    """Return, by title, the functions that make the models.

    Args:
        models: The folder of MLPerf Tiny's Keras models as published by mlcommons/tiny. Defaults to
            `KERAS_KD_MLPERF_TINY`; without it they are left out.
    """
    folder = models or os.environ.get("KERAS_KD_MLPERF_TINY")
    made = {
        "digits student": student,
        "digits student, pruned": pruned_student,
        "digits, small ViT": vision_transformer,
        "reviews, masked attention": text_transformer,
        "planted: channel of 1000": dead_channel,
        "planted: uneven kernel": uneven_kernel,
        "planted: mask of -1e9": masked_pooling,
        "MobileNetV2": lambda: application("MobileNetV2", "mobilenet_v2"),
        "EfficientNetB0": lambda: application("EfficientNetB0", "efficientnet"),
    }
    if folder:
        published = {
            "MLPerf Tiny: ResNet8": resnet8,
            "MLPerf Tiny: MobileNetV1 0.25": visual_wake_words,
            "MLPerf Tiny: autoencoder": autoencoder,
            "MLPerf Tiny: DS-CNN": keyword,
        }
        made |= {
            title: lambda make=make: make(pathlib.Path(folder)) for title, make in published.items()
        }
    return made
