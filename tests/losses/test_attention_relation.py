from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import AttentionRelation

V2 = ((0, 0), (1, 1), (2, 2))
V1 = ((0, 1), (2, 2))


def formula(teacher, student, heads, pairs=V2, kept=None):
    """In float64, sample by sample, head by head."""
    batch, time = teacher[0].shape[:2]
    kept = np.ones((batch, time), bool) if kept is None else kept
    total = 0.0
    for first, second in pairs:
        for b in range(batch):
            for h in range(heads):
                logs = []
                for side in (teacher, student):
                    parts = []
                    for x in (side[first], side[second]):
                        x = x[b].reshape(time, heads, -1)[kept[b], h]
                        parts.append(x)
                    z = parts[0] @ parts[1].T / np.sqrt(parts[0].shape[-1])
                    z = z - z.max(-1, keepdims=True)
                    logs.append(z - np.log(np.exp(z).sum(-1, keepdims=True)))
                total += (np.exp(logs[0]) * (logs[0] - logs[1])).sum()
    return total / (len(pairs) * heads * kept.sum())


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
    return [check.normal(*shape, scale=1.0) for _ in range(3)]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [((2, 4, 12), (2, 4, 6)), ((2, 4, 4, 3), (2, 4, 2, 3)), ((1, 3, 2, 6), (1, 3, 6))],
)
@pytest.mark.parametrize("relations", [("qq", "kk", "vv"), ("qk", "vv")])
def test_value_and_gradients(check, teacher, student, relations):
    teacher, student = projections(check, *teacher), projections(check, *student)
    pairs = V2 if len(relations) == 3 else V1
    loss = AttentionRelation(3, relations)
    expected = formula(teacher, student, 3, pairs)
    for dtype in ("float32", "float64"):
        value, gradients = call(
            loss, [x.astype(dtype) for x in teacher], [x.astype(dtype) for x in student]
        )
        assert value.dtype == dtype
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for i, gradient in enumerate(gradients):

            def moved(x, i=i):
                return formula(teacher, [*student[:i], x, *student[i + 1 :]], 3, pairs)

            numeric = check.numeric_gradient(moved, student[i])
            np.testing.assert_allclose(
                gradient, numeric, rtol=1e-3, atol=1e-4 * np.abs(numeric).max()
            )


def test_padding_is_left_out_as_key_and_as_query(check):
    teacher, student = projections(check, 2, 5, 8), projections(check, 2, 5, 4)
    kept = np.array([[True] * 3 + [False] * 2, [True] * 5])
    loss = AttentionRelation(2)
    expected = formula(teacher, student, 2, kept=kept)
    padded = [np.where(kept[..., None], x, 50.0) for x in student]
    masked = [tf.constant(x) for x in padded]
    keras.src.backend.set_keras_mask(masked[0], tf.constant(kept))
    np.testing.assert_allclose(loss(teacher, masked), expected, rtol=1e-9)
    value, gradients = call(loss, teacher, padded, sample_weight=kept.astype("float64"))
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert not np.any(gradients[0][0, 3:])


def test_a_rotation_of_the_head_space_changes_nothing(check):
    teacher, student = projections(check, 2, 4, 12), projections(check, 2, 4, 6)
    rotation = np.linalg.qr(check.normal(3, 3))[0]
    turned = [(x.reshape(2, 4, 2, 3) @ rotation).reshape(2, 4, 6) for x in student]
    loss = AttentionRelation(2)
    np.testing.assert_allclose(loss(teacher, turned), loss(teacher, student), rtol=1e-9)


def test_extremes_and_sample_weights(check):
    teacher, student = projections(check, 3, 4, 8), projections(check, 3, 4, 4)
    loss = AttentionRelation(2)
    for scale in (0.0, 1e4):
        value, gradients = call(
            loss,
            [(scale * x).astype("float32") for x in teacher],
            [(scale * x).astype("float32") for x in student],
        )
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(loss(teacher, teacher), 0.0, atol=1e-12)
    weights = np.array([0.0, 1.0, 2.0])
    each = [formula(*([x[i : i + 1] for x in s] for s in (teacher, student)), 2) for i in range(3)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-9
    )


def test_half_precision_compilation_and_serialization(check):
    teacher, student = projections(check, 2, 4, 8), projections(check, 2, 4, 4)
    loss = AttentionRelation(2, ("qk", "vv"), name="mine")
    half = [[tf.cast(x, "float16") for x in side] for side in (teacher, student)]
    value = tf.function(loss, jit_compile=True)(*half)
    assert value.dtype == tf.float32
    expected = formula(*([x.numpy().astype("d") for x in side] for side in half), 2, V1)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == {"name": "mine", "heads": 2, "relations": ["qk", "vv"]}


def test_refuses_what_it_cannot_split():
    x = [np.zeros((2, 4, 8))] * 3
    with pytest.raises(ValueError, match=r"heads=3, a feature of shape \(2, 4, 8\)"):
        AttentionRelation(3)(x, x)
    with pytest.raises(ValueError, match="2 layers"):
        AttentionRelation(2)(x[:2], x[:2])
    for other in ([np.zeros((2, 5, 8))] * 3, x[:2], [np.zeros((2, 8))] * 3):
        with pytest.raises(ValueError, match="of equal length"):
            AttentionRelation(2)(x, other)
    with pytest.raises(TypeError, match="takes a list of tensors"):
        AttentionRelation(2)(x[0], x[0])
    for relations in ((), ("q",), ("qx",)):
        with pytest.raises(ValueError, match="`relations`"):
            AttentionRelation(2, relations)
    with pytest.raises(ValueError, match="`heads`"):
        AttentionRelation(0)
