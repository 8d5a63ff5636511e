from __future__ import annotations

import numpy as np
import pytest

from keras_kd.losses.shared.class_labels import label_mask, others_log_softmax


def test_indices_columns_and_one_hot_say_the_same():
    labels, logits = np.array([2, 0]), np.zeros((2, 3))
    expected = np.eye(3, dtype=bool)[labels]
    for given in (labels, labels[:, None], np.eye(3)[labels], labels.astype("float32")):
        np.testing.assert_array_equal(label_mask(np.asarray(given), logits), expected)


def test_positions():
    labels = np.array([[2, 0], [1, 1]])
    np.testing.assert_array_equal(
        label_mask(labels, np.zeros((2, 2, 3))), np.eye(3, dtype=bool)[labels]
    )


def test_labels_outside_of_the_classes_mark_nothing():
    assert not np.any(label_mask(np.array([-1, 255]), np.zeros((2, 3))))
    assert not np.any(label_mask(np.zeros((2, 3)), np.zeros((2, 3))))


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"shape \(3,\) do not fit logits of shape \(2, 3\)"):
        label_mask(np.zeros(3), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        label_mask(np.zeros((2, 4)), np.zeros((2, 3)))


def test_the_label_is_left_out_exactly():
    logits = np.array([[5000.0, 1.0, 2.0]])
    mask = np.array([[True, False, False]])
    e = np.exp(np.array([1.0, 2.0]))
    np.testing.assert_allclose(
        np.exp(others_log_softmax(logits, mask)), [[1.0, *(e / e.sum())]], rtol=1e-12
    )
