from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.losses import LocalizationDistillation

BINS = 5


def formula(teacher, student, classes=None, temperature=10.0):
    values = np.zeros(teacher.shape[:-1])
    for place in np.ndindex(*values.shape):
        for edge in range(4):
            logs = []
            for x in (teacher, student):
                z = x[place][edge * BINS : (edge + 1) * BINS] / temperature
                z = z - z.max()
                logs.append(z - np.log(np.exp(z).sum()))
            values[place] += (np.exp(logs[0]) * (logs[0] - logs[1])).mean() / 4
    values *= temperature**2
    if classes is None:
        return values.mean()
    weights = 1 / (1 + np.exp(-classes.max(-1)))
    return (weights * values).sum() / weights.sum()


def both(loss):
    """The loss of the edges alone, or with classes, called with tensors."""
    return lambda t, s, labels=None, **kwargs: loss(
        [t] if labels is None else [t, labels], [s], **kwargs
    )


@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2)])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient(check, shape, temperature, weighted):
    teacher, student = check.normal(*shape, 4 * BINS), check.normal(*shape, 4 * BINS)
    classes = check.normal(*shape, 3) if weighted else None
    loss = both(LocalizationDistillation(BINS, temperature))
    expected = check.numeric_gradient(
        lambda s: formula(teacher, s, classes, temperature), student, 1e-5
    )
    for dtype in ("float32", "float64"):
        labels = None if classes is None else classes.astype(dtype)
        value, (to_teacher, gradient) = check.value_and_gradients(
            loss, teacher.astype(dtype), student.astype(dtype), labels
        )
        assert value.dtype == dtype
        np.testing.assert_allclose(
            value, formula(teacher, student, classes, temperature), rtol=1e-5
        )
        assert to_teacher is None
        np.testing.assert_allclose(
            gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_hard_logits(check):
    loss = both(LocalizationDistillation(BINS, 1.0))
    logits = 1e4 * np.where(check.normal(2, 3, 4 * BINS) > 0, 1.0, -1.0)
    for classes in (1e4, -1e4, 0.0):
        labels = np.full((2, 3, 2), classes, "float32")
        for pair in ((logits, -logits), (logits, 0 * logits), (0 * logits, logits)):
            check.finite(loss, *pair, labels)
    # A teacher that sees nothing anywhere teaches nothing.
    assert loss(logits, -logits, np.full((2, 3, 2), -1e4)) == 0


def test_only_confident_positions_count(check):
    teacher, student = check.normal(2, 3, 4 * BINS), check.normal(2, 3, 4 * BINS)
    classes = np.full((2, 3, 2), -50.0)
    classes[1, 2, 0] = 50.0
    np.testing.assert_allclose(
        both(LocalizationDistillation(BINS))(teacher, student, classes),
        formula(teacher[1:, 2:], student[1:, 2:]),
        rtol=1e-6,
    )


def test_probabilities_and_sample_weights(check):
    teacher, student = check.normal(2, 3, 4 * BINS), check.normal(2, 3, 4 * BINS)
    classes = check.normal(2, 3, 2)
    loss = LocalizationDistillation(BINS, from_logits=False)
    confidence = 1 / (1 + np.exp(-classes))
    np.testing.assert_allclose(
        loss([teacher, confidence], [student]), formula(teacher, student, classes), rtol=1e-6
    )
    plain = LocalizationDistillation(BINS)
    each = [formula(t[None], s[None]) for t, s in zip(teacher, student, strict=True)]
    np.testing.assert_allclose(
        plain([teacher], [student], sample_weight=np.array([0.5, 2.0])),
        np.mean([0.5 * each[0], 2.0 * each[1]]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_confidence_of_masked_positions_does_not_count(check, side, weighted):
    teacher, student = check.normal(2, 4, 4 * BINS), check.normal(2, 4, 4 * BINS)
    classes = check.normal(2, 4, 3) if weighted else None
    mask = np.array([[True, True, True, False], [True, True, False, False]])
    kept = [x[mask][None] for x in (teacher, student)]
    expected = formula(*kept, None if classes is None else classes[mask][None])
    tensors = [np.where(mask[..., None], x, 9.0) for x in (teacher, student)]
    tensors = [keras.ops.convert_to_tensor(x) for x in tensors]
    keras.src.backend.set_keras_mask(tensors[side == "student"], keras.ops.convert_to_tensor(mask))
    if classes is not None:
        classes = np.where(mask[..., None], classes, 9.0)
    value = both(LocalizationDistillation(BINS))(*tensors, classes)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_serialization():
    loss = LocalizationDistillation(16, 4.0, False, name="edges")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert copy.get_config() == loss.get_config()


def test_refuses_wrong_layers():
    edges, classes = np.zeros((2, 3, 4 * BINS)), np.zeros((2, 3, 2))
    loss = LocalizationDistillation(BINS)
    with pytest.raises(ValueError, match="2 student layers"):
        loss([edges, classes], [edges, classes])
    with pytest.raises(ValueError, match=r"bins=7"):
        LocalizationDistillation(7)([edges], [edges])
    with pytest.raises(ValueError, match="edges of equal shape"):
        loss([edges], [edges[:, :2]])
    with pytest.raises(ValueError, match="same positions"):
        loss([edges, classes[:, :2]], [edges])
    with pytest.raises(ValueError, match="`bins`"):
        LocalizationDistillation(1)
