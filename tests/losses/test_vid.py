from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import VID


def built(teacher, student, **arguments):
    loss = VID(**arguments)
    loss.build((None, *teacher.shape[1:]), (None, *student.shape[1:]))
    rng = np.random.default_rng(3)
    for variable in loss.parameters.variables:
        variable.assign(rng.normal(size=variable.shape))
    return loss


def formula_of(loss):
    *kernels, scale = [v.numpy().astype("float64") for v in weights(loss)]

    def formula(teacher, student):
        if student.shape[1:-1] != teacher.shape[1:-1]:
            student = sum(student[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        mean = student
        for i, kernel in enumerate(kernels):
            mean = mean @ kernel
            mean = np.maximum(mean, 0) if i < 2 else mean
        variance = np.log1p(np.exp(scale)) + 1e-5
        return (((mean - teacher) ** 2 / variance + np.log(variance)) / 2).mean()

    return formula


def weights(loss):
    return [c.kernel for c in loss.parameters.convolutions] + [loss.parameters.scale]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [((4, 3), (4, 5)), ((2, 3, 2, 4), (2, 3, 2, 3)), ((2, 2, 2, 4), (2, 4, 4, 3))],
)
def test_value_and_gradients(check, teacher, student):
    teacher, student = check.normal(*teacher), check.normal(*student)
    loss = built(teacher, student, mid_channels=6)
    formula = formula_of(loss)
    value, (to_teacher, gradient) = check.value_and_gradients(
        loss, teacher.astype("float32"), student.astype("float32")
    )
    np.testing.assert_allclose(value, formula(teacher, student), rtol=1e-5)
    assert to_teacher is None
    expected = check.numeric_gradient(lambda s: formula(teacher, s), student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_variance_starts_at_five_and_is_learned(check):
    teacher, student = check.normal(64, 3, scale=0.1), check.normal(64, 5)
    loss = VID()
    loss.build((None, 3), (None, 5))
    _, variance = loss.parameters(tf.constant(student, tf.float32))
    np.testing.assert_allclose(variance, [5.0] * 3, rtol=1e-5)
    optimizer = keras.optimizers.Adam(0.1)
    before = float(loss(teacher, student))
    for _ in range(60):
        with tf.GradientTape() as tape:
            value = loss(teacher, student)
        variables = loss.parameters.trainable_variables
        assert len(variables) == 4
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
    assert float(loss(teacher, student)) < before - 1.0
    _, variance = loss.parameters(tf.constant(student, tf.float32))
    assert np.max(variance) < 0.5


def test_hard_features(check):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    loss = built(teacher, student)
    for scale in (0.0, 1000.0):
        check.finite(loss, scale * teacher, scale * student)
    value, _ = check.finite(loss, teacher[:1], student[:1])
    np.testing.assert_allclose(value, formula_of(loss)(teacher[:1], student[:1]), rtol=1e-5)


def test_sample_weights_and_masks(check):
    teacher, student = check.normal(3, 4, 2), check.normal(3, 4, 5)
    loss, weights = built(teacher, student), np.array([0.0, 1.0, 2.0])
    each = [float(loss(teacher[i : i + 1], student[i : i + 1])) for i in range(3)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-5
    )
    mask = np.array([[True, True, False, False]] * 3)
    masked = tf.constant(student)
    keras.src.backend.set_keras_mask(masked, tf.constant(mask))
    np.testing.assert_allclose(
        loss(teacher, masked), loss(teacher[:, :2], student[:, :2]), rtol=1e-5
    )


def test_half_precision_compilation_and_serialization(check):
    teacher, student = check.normal(4, 3), check.normal(4, 5)
    loss = built(teacher, student)
    half = [tf.cast(x, "float16") for x in (teacher, student)]
    value = tf.function(loss, jit_compile=True)(*half)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(
        value, formula_of(loss)(*(x.numpy().astype("d") for x in half)), 1e-4
    )
    assert loss(teacher, student).dtype == tf.float64
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(VID(8, 2.0, 1e-3, name="mine"))
    )
    assert copy.get_config() == {
        "name": "mine",
        "mid_channels": 8,
        "initial_variance": 2.0,
        "epsilon": 1e-3,
    }
    assert copy.parameters is None


def test_must_be_built():
    with pytest.raises(ValueError, match=r"VID has variables.*keras_kd.Hint"):
        VID()(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="channels of the teacher's feature"):
        VID().build((None, None), (None, 3))


def test_refuses_arguments_out_of_range():
    with pytest.raises(ValueError, match="`mid_channels`"):
        VID(mid_channels=0)
    with pytest.raises(ValueError, match="`initial_variance`"):
        VID(initial_variance=1e-6)
