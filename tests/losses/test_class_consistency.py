from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import ClassConsistency
from keras_kd.losses.class_consistency import partners

LABELS = np.array([0, 1, 0, 2, 1, 0])


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def formula(target, student, temperature=4.0):
    """The targets are given apart: they have no gradient."""
    total = 0.0
    for i, other in {0: 2, 1: 4, 2: 5, 4: 1, 5: 0}.items():
        log_t = log_softmax(target[other] / temperature)
        log_s = log_softmax(student[i] / temperature)
        total += (np.exp(log_t) * (log_t - log_s)).sum()
    return temperature**2 * total / len(LABELS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(check, temperature):
    teacher, student = check.normal(6, 5), check.normal(6, 5)
    expected = check.numeric_gradient(lambda s: formula(student, s, temperature), student)
    for dtype in ("float32", "float64"):
        value, (to_teacher, gradient) = check.value_and_gradients(
            ClassConsistency(temperature), teacher.astype(dtype), student.astype(dtype), LABELS
        )
        assert value.dtype == dtype
        np.testing.assert_allclose(value, formula(student, student, temperature), rtol=1e-5)
        assert to_teacher is None
        np.testing.assert_allclose(
            gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_partners_go_around_the_batch():
    masks = np.eye(3)[LABELS]
    others, found = partners(masks)
    np.testing.assert_array_equal(found, [True, True, True, False, True, True])
    assert [int(i) for i, f in zip(others, found, strict=True) if f] == [2, 4, 5, 1, 0]
    _, found = partners(np.zeros((4, 3)))
    assert not np.any(found)


def test_labels_outside_of_the_classes_have_no_partner(check):
    student = check.normal(4, 3)
    loss = ClassConsistency()
    assert loss(student, student, labels=np.array([-1, -1, -1, -1])) == 0
    assert loss(student, student, labels=np.array([0, 1, 2, -1])) == 0
    one_hot = np.eye(3)[[0, 0, 1, 1]]
    np.testing.assert_allclose(
        loss(student, student, labels=one_hot),
        loss(student, student, labels=np.array([0, 0, 1, 1])),
    )


def test_hard_logits_weights_and_standardized(check):
    for scale in (0.0, 1e4):
        check.finite(
            ClassConsistency(), scale * check.normal(6, 5), scale * check.normal(6, 5), LABELS
        )
    student = check.normal(6, 5)
    each = [
        float(ClassConsistency()(student, student, labels=LABELS, sample_weight=6 * row))
        for row in np.eye(6)
    ]
    weights = np.linspace(0, 2, 6)
    np.testing.assert_allclose(
        ClassConsistency()(student, student, labels=LABELS, sample_weight=weights),
        np.mean(weights * each),
        rtol=1e-6,
    )
    z = (student - student.mean(-1, keepdims=True)) / student.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(
        ClassConsistency(standardize=True)(student, student, labels=LABELS),
        formula(z, z),
        rtol=1e-5,
    )


def test_refuses_positions_and_missing_labels(check):
    x = check.normal(2, 3, 5)
    with pytest.raises(ValueError, match=r"\[batch, classes\]"):
        ClassConsistency()(x, x, labels=np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="needs labels"):
        ClassConsistency()(x[0], x[0])
