from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses import NST


def formula(teacher, student):
    """Kernel by kernel; the sides are equal, or the teacher's are twice the student's."""
    if teacher.shape[1] == 2 * student.shape[1]:
        teacher = sum(teacher[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        t, s = (x.reshape(-1, x.shape[-1]).T for x in (t, s))
        t, s = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (t, s))
        mean = [np.mean([(x @ y) ** 2 for x in a for y in b]) for a, b in ((t, t), (s, s), (s, t))]
        total += mean[0] + mean[1] - 2 * mean[2]
    return total / len(teacher)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [((3, 3, 3, 2), (3, 3, 3, 4)), ((2, 4, 4, 3), (2, 2, 2, 2)), ((3, 6, 2), (3, 6, 3))],
)
def test_value_and_gradient(check, teacher, student):
    check.golden(NST(), formula, check.normal(*teacher), check.normal(*student))


def test_hard_features(check):
    check.hard_features(NST(), formula, (4, 3, 3, 2))
    check.hard_features(NST(), formula, (4, 3, 3, 2), (4, 3, 3, 4))


def test_is_exact_where_the_student_is_close(check):
    teacher = check.normal(2, 4, 4, 8)
    student = (teacher + 0.01 * check.normal(2, 4, 4, 8)).astype("float32")
    np.testing.assert_allclose(
        NST()(teacher.astype("float32"), student),
        formula(teacher, student.astype("float64")),
        rtol=1e-5,
    )


def test_sample_weights(check):
    check.sample_weights(NST(), (4, 3, 3, 2))


def test_refuses_features_without_sides():
    with pytest.raises(ValueError, match="NST compares feature maps"):
        NST()(np.zeros((2, 8)), np.zeros((2, 8)))
