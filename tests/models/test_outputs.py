import keras
import numpy as np
import pytest

from keras_kd.models.outputs import check_labels

SparseCE = keras.losses.SparseCategoricalCrossentropy


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"0 \.\.\. 9.*holds 12.*13 outputs"):
        check_labels(SparseCE(), np.array([1, 12]), 10)
    with pytest.raises(ValueError, match="holds -1"):
        check_labels(SparseCE(), np.array([1, -1]), 10)
    check_labels(SparseCE(), np.array([0, 9]), 10)
    check_labels(SparseCE(ignore_class=255), np.array([0, 255]), 10)


def test_one_hot_labels_of_a_sparse_loss_are_refused():
    with pytest.raises(ValueError, match=r"one-hot.*CategoricalCrossentropy\(from_logits=True\)"):
        check_labels(SparseCE(), np.eye(10)[:4], 10)
    # Token labels of shape [batch, time], where there are as many steps as classes.
    check_labels(SparseCE(), np.arange(100).reshape(10, 10) % 10, 10)


def test_one_hot_labels_of_another_width_are_refused():
    with pytest.raises(ValueError, match="one-hot"):
        check_labels(keras.losses.CategoricalCrossentropy(), np.zeros((4, 9)), 10)
    check_labels(keras.losses.CategoricalCrossentropy(), np.zeros((4, 10)), 10)
