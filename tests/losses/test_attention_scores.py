from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import AttentionScores


def scores(side):
    q, k = (x.transpose(0, 2, 1, 3) for x in side[:2])
    return q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])


def formula(teacher, student):
    return ((scores(teacher) - scores(student)) ** 2).mean()


def call(loss, teacher, student, **arguments):
    """The value and the gradients to the student's parts."""
    teacher, student = ([tf.convert_to_tensor(x) for x in side] for side in (teacher, student))
    with tf.GradientTape() as tape:
        tape.watch(student + teacher)
        value = loss(teacher, student, **arguments)
    gradients = tape.gradient(value, student + teacher)
    assert all(g is None for g in gradients[len(student) :])
    return value, gradients[: len(student)]


def projections(check, *shape):
    return [check.normal(*shape, scale=1.0) for _ in range(2)]


def test_value_and_gradients(check):
    teacher, student = projections(check, 2, 4, 2, 5), projections(check, 2, 4, 2, 3)
    for dtype in ("float32", "float64"):
        value, gradients = call(
            AttentionScores(),
            [x.astype(dtype) for x in teacher],
            [x.astype(dtype) for x in student],
        )
        assert value.dtype == dtype
        np.testing.assert_allclose(value, formula(teacher, student), rtol=1e-5)
        for i, gradient in enumerate(gradients):

            def moved(x, i=i):
                return formula(teacher, [*student[:i], x, *student[i + 1 :]])

            numeric = check.numeric_gradient(moved, student[i])
            np.testing.assert_allclose(
                gradient, numeric, rtol=1e-3, atol=1e-4 * np.abs(numeric).max()
            )


def test_padding_is_left_out(check):
    teacher, student = projections(check, 2, 5, 2, 3), projections(check, 2, 5, 2, 3)
    kept = np.array([[True] * 3 + [False] * 2] * 2)
    padded = [np.where(kept[..., None, None], x, 50.0) for x in student]
    cut = [[x[:, :3] for x in side] for side in (teacher, student)]
    masked = [tf.constant(x) for x in padded]
    keras.src.backend.set_keras_mask(masked[1], tf.constant(kept))
    np.testing.assert_allclose(AttentionScores()(teacher, masked), formula(*cut), rtol=1e-9)
    value, gradients = call(AttentionScores(), teacher, padded, sample_weight=kept.astype("d"))
    np.testing.assert_allclose(value, formula(*cut), rtol=1e-9)
    assert not np.any(gradients[0][:, 3:])


def test_extremes_weights_compilation_and_serialization(check):
    teacher, student = projections(check, 3, 4, 2, 3), projections(check, 3, 4, 2, 3)
    loss = AttentionScores()
    for scale in (0.0, 1e4):
        value, gradients = call(
            loss,
            [(scale * x).astype("float32") for x in teacher],
            [(scale * x).astype("float32") for x in student],
        )
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
    weights = np.array([0.0, 1.0, 2.0])
    each = [formula(*([x[i : i + 1] for x in s] for s in (teacher, student))) for i in range(3)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-9
    )
    half = [[tf.cast(x, "float16") for x in side] for side in (teacher, student)]
    value = tf.function(loss, jit_compile=True)(*half)
    expected = formula(*([x.numpy().astype("d") for x in side] for side in half))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == {"name": "attention_scores"}


def test_refuses_other_numbers_of_heads_and_ranks():
    x, other = [np.zeros((2, 4, 2, 3))] * 2, [np.zeros((2, 4, 3, 2))] * 2
    with pytest.raises(ValueError, match=r"numbers of heads differ.*AttentionRelation"):
        AttentionScores()(x, other)
    for wrong in ([np.zeros((2, 4, 6))] * 2, x[:1]):
        with pytest.raises(ValueError, match="reads queries and keys"):
            AttentionScores()(wrong, wrong)
