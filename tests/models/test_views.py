import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.models.views import read_as


def functional():
    i = keras.Input((4,))
    x = layers.Dense(3, name="dense", kernel_regularizer="l2", activity_regularizer="l2")(i)
    x = layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="norm", momentum=0.5)(x))
    return keras.Model(i, x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = functional()

    def call(self, x, training=None):
        return self.inner(x, training=training)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


@pytest.fixture(params=[functional, subclassed])
def model(request):
    return request.param()


X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def read(model, values, training=False):
    kernel = next(v for v in model.trainable_variables if v.name == "kernel")
    with read_as(model, [(kernel, values(kernel))]):
        return kernel, model(X, training=training)


def test_other_values_are_read_and_none_are_written(model):
    before = model.get_weights()
    _, outputs = read(model, lambda kernel: tf.zeros_like(kernel.value))
    assert float(np.ptp(outputs, axis=0).max()) == 0.0
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_gradients_reach_what_the_values_were_computed_from(model):
    with tf.GradientTape() as tape:
        kernel, outputs = read(model, lambda kernel: 2.0 * kernel.value)
        loss = tf.reduce_sum(outputs)
    assert float(tf.reduce_max(tf.abs(tape.gradient(loss, kernel.value)))) > 0.0


def test_what_a_pass_assigns_is_kept_once(model):
    mean = next(v for v in model.non_trainable_variables if v.name == "moving_mean")
    (seed,) = (v for v in model.non_trainable_variables if "seed" in v.name)
    state = np.asarray(seed.value).copy()
    kernel, _ = read(model, lambda kernel: 2.0 * kernel.value, training=True)
    expected = 0.5 * (X @ (2.0 * np.asarray(kernel.value))).mean(0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(seed.value, state), "the seed of a dropout moves on"


def test_losses_of_layers_count_once_and_with_the_values_read(model):
    for _ in range(3):
        kernel, _ = read(model, lambda kernel: 2.0 * kernel.value, training=True)
    outputs = X @ (2.0 * np.asarray(kernel.value))
    activity = 0.01 * np.square(outputs).sum() / len(X)
    weight = 0.01 * np.square(kernel.value).sum()
    assert float(sum(model.losses)) == pytest.approx(float(activity + weight), rel=1e-4)
