from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.losses import SRRL


def classifier(channels=3, classes=4):
    layer = keras.layers.Dense(classes, name="logits")
    layer.build((None, channels))
    layer.set_weights(
        [np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(layer.get_weights())]
    )
    return layer


def built(teacher, student, **arguments):
    loss = SRRL(classifier(teacher[-1]), **arguments)
    loss.build((None, *teacher[1:]), (None, *student[1:]))
    rng = np.random.default_rng(3)
    for variable in loss.parameters.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return loss


def formula_of(loss):
    layers = loss.parameters
    connector = layers.connector.kernel.numpy().astype("d")
    gamma, beta = layers.norm.gamma.numpy().astype("d"), layers.norm.beta.numpy().astype("d")
    kernel, bias = (w.astype("d") for w in loss.classifier.get_weights())

    def pooled(x):
        return x.reshape(len(x), -1, x.shape[-1]).mean(1)

    def formula(teacher, student):
        x = student @ connector
        axes = tuple(range(x.ndim - 1))
        x = gamma * (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) + beta
        s, t = pooled(np.maximum(x, 0)), pooled(teacher)
        logits = [f @ kernel + bias for f in (t, s)]
        features = ((t - s) ** 2).mean()
        return ((logits[0] - logits[1]) ** 2).mean() + loss.feature_weight * features

    return formula


@pytest.mark.parametrize(
    ("teacher", "student"), [((4, 3), (4, 5)), ((3, 2, 2, 3), (3, 3, 2, 2)), ((3, 4, 3), (3, 4, 3))]
)
def test_value_and_gradient(check, teacher, student):
    teacher, student = check.normal(*teacher), check.normal(*student)
    loss = built(teacher.shape, student.shape, feature_weight=0.5)
    formula = formula_of(loss)
    value, (to_teacher, gradient) = check.value_and_gradients(
        loss, teacher.astype("float32"), student.astype("float32")
    )
    np.testing.assert_allclose(value, formula(teacher, student), rtol=1e-5)
    assert to_teacher is None
    expected = check.numeric_gradient(lambda s: formula(teacher, s), student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_classifier_is_frozen_and_its_activation_left_out(check):
    loss = built((4, 3), (4, 5))
    names = {variable.path.split("/")[-2] for variable in loss.parameters.trainable_variables}
    assert "classifier" not in names and "connector" in names
    softmax = keras.layers.Dense(4, activation="softmax", name="logits")
    softmax.build((None, 3))
    softmax.set_weights(loss.classifier.get_weights())
    other = SRRL(softmax)
    other.build((None, 3), (None, 5))
    for new, old in zip(other.parameters.weights, loss.parameters.weights, strict=True):
        new.assign(old)
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    np.testing.assert_allclose(other(teacher, student), loss(teacher, student))


def test_hard_features_and_sample_weights(check):
    teacher, student = check.normal(4, 2, 2, 3), check.normal(4, 2, 2, 5)
    loss = built(teacher.shape, student.shape)
    for scale in (0.0, 1e4):
        check.finite(loss, scale * teacher, scale * student)
    check.finite(loss, teacher[:1], student[:1])
    weights = np.array([0.0, 1.0, 2.0, 0.5])
    each = [float(loss(teacher, student, sample_weight=4 * row)) for row in np.eye(4)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-5
    )


def test_half_precision_and_compilation(check):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    loss = built(teacher.shape, student.shape)
    half = [tf.cast(x, "float16") for x in (teacher, student)]
    value = tf.function(loss, jit_compile=True)(*half)
    assert value.dtype == tf.float32
    expected = formula_of(loss)(*(x.numpy().astype("d") for x in half))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_the_weights_of_the_classifier_are_kept(check, tmp_path):
    def model(width):
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(width, 3, activation="relu", name="map")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))

    teacher = model(4)
    hint = kd.Hint("map", "map", loss=SRRL(teacher.get_layer("logits")))
    distiller = kd.Distiller(teacher, model(3), hint, student_loss_weight=0.0)
    distiller.compile("sgd")
    distiller.fit(check.normal(8, 6, 6, 1), epochs=1, verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    refitted = hint.refitted([(None, 4, 4, 2)])
    assert refitted is not hint
    for other in (loaded.distillation_losses[0], refitted):
        for new, old in zip(
            other.loss.parameters.classifier.get_weights(),
            teacher.get_layer("logits").get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(new, old)


def test_refuses_other_classifiers():
    for wrong in (keras.layers.Dense(3), keras.layers.ReLU(), None):
        with pytest.raises(TypeError, match="SRRL reads"):
            SRRL(wrong)
    with pytest.raises(ValueError, match="the classifier reads 3 channels"):
        SRRL(classifier()).build((None, 4), (None, 5))
    with pytest.raises(ValueError, match="SRRL: `feature_weight`"):
        SRRL(classifier(), -1.0)
    with pytest.raises(ValueError, match=r"SRRL has variables"):
        SRRL(classifier())(np.zeros((2, 3)), np.zeros((2, 3)))


def test_masked_positions_count_neither_in_averages_nor_in_statistics(check):
    teacher, student = check.normal(1, 5, 3), check.normal(1, 5, 4)
    loss = built((2, 5, 3), (2, 5, 4), feature_weight=0.5)
    expected = formula_of(loss)(teacher[:, :3], student[:, :3])
    mask = tf.constant([[True, True, True, False, False]])
    for junk in (0.0, 100.0):
        features = []
        for x in (teacher, student):
            x = tf.constant(np.where(mask[..., None], x, junk), "float32")
            x._keras_mask = mask
            features.append(x)
        np.testing.assert_allclose(loss(*features), expected, rtol=1e-5)
