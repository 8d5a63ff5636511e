"""A file holds every kernel in the bits that it was trained for, or is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.export.promises import check_promises
from keras_kd.litert.model_file import ModelFile


def converted(model, optimized):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if optimized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return ModelFile(converter.convert())


@pytest.fixture(scope="module")
def model():
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(16, 3, name="conv")(image))
    x = layers.DepthwiseConv2D(3, name="depthwise")(layers.ReLU()(x))
    made = keras.Model(image, layers.Dense(80, name="logits")(layers.Flatten()(x)))
    norm = made.get_layer("norm")
    norm.set_weights([np.random.default_rng(i).uniform(0.5, 2, 16) for i in range(4)])
    return made


@pytest.mark.parametrize("name", ["conv", "depthwise", "logits"])
def test_a_kernel_in_float_is_named(model, name):
    with pytest.raises(ValueError, match=name):
        check_promises(model, {name: 8}, converted(model, False), "a.tflite", "int8")


def test_only_what_was_promised_is_looked_for(model):
    check_promises(model, {}, converted(model, False), "a.tflite", "int8")


def test_kernels_in_integers_are_as_promised(model):
    file = converted(model, True)
    check_promises(model, {"logits": 8}, file, "a.tflite", "int8")
    check_promises(model, {"logits": 4}, file, "a.tflite", "int8")  # 4 bits fit in 8
    with pytest.raises(ValueError, match="logits"):
        check_promises(model, {"logits": 4}, file, "a.tflite", "int4")
