"""Sizes that only a step knows are compared in the step: unequal ones would be broadcast."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.distilling.loss_values import compute_keras_loss

UNKNOWN = tf.TensorSpec((None, None, 4))
LOSSES = {
    "output": kd.losses.KLDivergence(),
    "chunks": kd.losses.KLDivergence(chunk_size=2),
    "feature": kd.losses.FitNet(),
    "map": kd.losses.PearsonFeatures(),
    "edges": lambda t, s: kd.losses.LocalizationDistillation(bins=2)([t], [s]),
    "attention": lambda t, s: kd.losses.AttentionRelation(heads=2)([t] * 3, [s] * 3),
    "keras": lambda t, s: compute_keras_loss(keras.distillation.FeatureDistillation("mse"), t, s),
}


@pytest.mark.fast_cases("chunks", "map", "keras")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_unequal_sizes_are_refused(loss):
    step = tf.function(lambda t, s: loss(t, s), input_signature=[UNKNOWN, UNKNOWN])
    rng = np.random.default_rng(0)
    long, short = (rng.normal(size=(2, n, 4)).astype("float32") for n in (5, 1))
    assert np.isfinite(step(long, long[::-1]))
    for teacher, student in ((long, short), (short, long)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="tensors of equal shape"):
            step(teacher, student)


def test_one_row_of_a_teacher_is_not_repeated():
    fixed = tf.TensorSpec((1, 4))
    step = tf.function(LOSSES["output"], input_signature=[fixed, tf.TensorSpec((None, 4))])
    step(tf.zeros((1, 4)), tf.zeros((1, 4)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="tensors of equal shape"):
        step(tf.zeros((1, 4)), tf.zeros((3, 4)))


def test_fit_says_so_in_a_sentence():
    def network(stride):
        inputs = keras.Input((None, 4))
        x = keras.layers.Conv1D(4, 1, strides=stride, name="features")(inputs)
        pooled = keras.layers.GlobalAveragePooling1D()(x)
        return keras.Model(inputs, keras.layers.Dense(2)(pooled))

    distiller = kd.Distiller(network(1), network(6), [kd.Hint("features", "features")], None, 0.0)
    distiller.compile("sgd")
    spec = tf.TensorSpec((None, None, 4))
    data = tf.data.Dataset.from_generator(lambda: [np.zeros((8, 6, 4))], output_signature=spec)
    with pytest.raises(ValueError, match=r"FitNet .*shape \(8, 6, 4\).*and \(8, 1, 4\)"):
        distiller.fit(data, verbose=0)
