"""Checks that every loss passes; a test file of a loss gives its formula and special cases."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

VALUE = 1e-5
GRADIENT = 1e-4


class Checks:
    """Compares a loss with a formula in NumPy float64, and tries it on hard inputs."""

    def __init__(self):
        self.random = np.random.default_rng(0)
        self.numeric_gradient = numeric_gradient

    def normal(self, *shape, scale=2.0):
        # Rounded to float32, so that both sides of a comparison see the same numbers.
        return (scale * self.random.normal(size=shape)).astype("float32").astype("float64")

    def value_and_gradients(self, loss, teacher, student, labels=None, sample_weight=None):
        teacher, student = tf.convert_to_tensor(teacher), tf.convert_to_tensor(student)
        with tf.GradientTape() as tape:
            tape.watch([teacher, student])
            value = loss(teacher, student, labels=labels, sample_weight=sample_weight)
        return value, tape.gradient(value, [teacher, student])

    def golden(self, loss, formula, teacher, student, labels=None):
        """The value, the student's gradient and the teacher's, in float32 and in float64."""
        extra = {} if labels is None else {"labels": labels}
        expected = formula(teacher, student, **extra)
        gradient = numeric_gradient(lambda s: formula(teacher, s, **extra), student)
        for dtype in ("float32", "float64"):
            value, (to_teacher, to_student) = self.value_and_gradients(
                loss, teacher.astype(dtype), student.astype(dtype), labels
            )
            assert value.shape == ()
            assert value.dtype == dtype
            np.testing.assert_allclose(value, expected, rtol=VALUE)
            assert to_teacher is None
            np.testing.assert_allclose(
                to_student, gradient, rtol=GRADIENT, atol=GRADIENT * np.abs(gradient).max()
            )
        assert np.abs(gradient).max() > 1e-9, "the inputs test nothing"
        self._half(loss, teacher, student, labels)
        self._compiled(loss, teacher, student, labels, expected)
        self._serialization(loss, teacher, student, labels)

    def finite(self, loss, teacher, student, labels=None):
        """Value and gradient are finite."""
        value, (_, gradient) = self.value_and_gradients(
            loss, np.asarray(teacher, "float32"), np.asarray(student, "float32"), labels
        )
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        return float(value), gradient.numpy()

    def hard_logits(self, loss, formula, labels=None):
        """Logits of +-1000, all equal, identical, and a batch of one."""
        extra = {} if labels is None else {"labels": labels}
        teacher = np.where(self.normal(4, 6) > 0, 1000.0, -1000.0)
        student = np.where(self.normal(4, 6) > 0, 1000.0, -1000.0)
        value, _ = self.finite(loss, teacher, student, labels)
        np.testing.assert_allclose(value, formula(teacher, student, **extra), rtol=VALUE)
        self.finite(loss, teacher, np.zeros((4, 6)), labels)
        self.finite(loss, np.zeros((4, 6)), np.zeros((4, 6)), labels)
        self.finite(loss, teacher, teacher, labels)
        one = {} if labels is None else {"labels": labels[:1]}
        teacher, student = self.normal(1, 6), self.normal(1, 6)
        value, _ = self.finite(loss, teacher, student, one.get("labels"))
        np.testing.assert_allclose(value, formula(teacher, student, **one), rtol=VALUE)

    def hard_features(self, loss, formula, shape=(4, 6), student_shape=None):
        """Features all zero, large, identical in the batch, equal on both sides, batch of one."""
        student_shape = student_shape or shape
        teacher, student = self.normal(*shape), self.normal(*student_shape)
        zeros = np.zeros(student_shape)
        self.finite(loss, teacher, zeros)
        self.finite(loss, np.zeros(shape), student)
        self.finite(loss, np.zeros(shape), zeros)
        self.finite(loss, 1000 * teacher, 1000 * student)
        self.finite(
            loss, teacher, np.broadcast_to(student[:1], student_shape)
        )  # identical embeddings
        half = student.copy()
        half[: len(half) // 2] = 0.0
        self.finite(loss, teacher, half)
        if shape == student_shape:
            value, _ = self.finite(loss, teacher, teacher)
            np.testing.assert_allclose(value, formula(teacher, teacher), atol=1e-5)
        value, _ = self.finite(loss, teacher[:1], student[:1])
        np.testing.assert_allclose(value, formula(teacher[:1], student[:1]), rtol=VALUE, atol=1e-9)

    def sample_weights(self, loss, shape, labels=None, student_shape=None):
        """`sum(w l) / B` for losses whose samples count one by one."""
        teacher, student = self.normal(*shape), self.normal(*(student_shape or shape))
        teacher, student = teacher.astype("float32"), student.astype("float32")
        weights = np.linspace(0.0, 2.0, shape[0]).astype("float32")
        each = [
            float(
                loss(
                    teacher[i : i + 1],
                    student[i : i + 1],
                    labels=None if labels is None else labels[i : i + 1],
                )
            )
            for i in range(shape[0])
        ]
        value = loss(teacher, student, labels=labels, sample_weight=weights)
        np.testing.assert_allclose(value, np.mean(weights * each), rtol=1e-5)

    def positions(self, loss, shape, labels=None):
        """`[batch, time, channels]` is the batch of its positions, without those masked."""
        teacher, student = self.normal(*shape), self.normal(*shape)
        flat = [x.reshape(-1, shape[-1]) for x in (teacher, student)]
        flat_labels = None if labels is None else labels.reshape(-1)
        np.testing.assert_allclose(
            loss(teacher, student, labels=labels), loss(*flat, labels=flat_labels), rtol=1e-6
        )
        mask = self.random.random(shape[:-1]) > 0.4
        masked = tf.constant(np.where(mask[..., None], student, 7.0))
        keras.src.backend.set_keras_mask(masked, tf.constant(mask))
        kept = mask.reshape(-1)
        expected = loss(
            *(x[kept] for x in flat), labels=None if labels is None else flat_labels[kept]
        )
        np.testing.assert_allclose(loss(teacher, masked, labels=labels), expected, rtol=1e-6)

    def _half(self, loss, teacher, student, labels):
        for dtype in ("float16", "bfloat16"):
            narrow = [tf.cast(x, dtype) for x in (teacher, student)]
            wide = [tf.cast(x, "float32") for x in narrow]
            value, (_, gradient) = self.value_and_gradients(loss, *narrow, labels)
            assert value.dtype == tf.float32
            assert gradient.dtype == narrow[1].dtype
            np.testing.assert_allclose(value, loss(*wide, labels=labels), rtol=1e-6)
        mixed = loss(tf.cast(teacher, "float32"), tf.cast(student, "float16"), labels=labels)
        assert mixed.dtype == tf.float32

    def _compiled(self, loss, teacher, student, labels, expected):
        compiled = tf.function(
            lambda t, s: self.value_and_gradients(loss, t, s, labels), jit_compile=True
        )
        value, (_, gradient) = compiled(
            tf.constant(teacher, tf.float32), tf.constant(student, tf.float32)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        assert np.isfinite(gradient).all()

    def _serialization(self, loss, teacher, student, labels):
        config = keras.saving.serialize_keras_object(loss)
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is type(loss)
        assert copy.get_config() == loss.get_config()
        assert set(loss.__init__.__annotations__) - {"return"} <= set(loss.get_config())
        np.testing.assert_allclose(
            copy(teacher, student, labels=labels), loss(teacher, student, labels=labels)
        )


def numeric_gradient(function, x, step=1e-6):
    """Central differences, in float64."""
    gradient = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.fixture
def check():
    return Checks()
