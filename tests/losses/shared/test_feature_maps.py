import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import (
    FSP,
    ICKD,
    NST,
    PKT,
    AttentionTransfer,
    ChannelWise,
    CosineRelation,
    PearsonFeatures,
    SimilarityPreserving,
)
from keras_kd.losses.shared.masks import set_keras_mask


@pytest.mark.parametrize("loss", [ChannelWise(), PearsonFeatures()])
def test_maps_of_other_sides_are_refused_and_not_repeated(loss):
    teacher, student = np.ones((2, 4, 4, 3), "float32"), np.ones((2, 1, 1, 3), "float32")
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 1, 1, 3\)"):
        loss(teacher, student)


BOTH_MASKED = [NST(), AttentionTransfer(), ICKD(), FSP(), CosineRelation()]


@pytest.mark.parametrize("loss", [*BOTH_MASKED, SimilarityPreserving(), PKT()])
def test_padding_counts_on_neither_side_of_other_lengths(loss):
    def feature(length, kept, padding):
        values = np.random.default_rng(length).normal(size=(3, length, 2))
        values[:, kept:] = padding
        tensor = tf.constant(values, "float32")
        set_keras_mask(tensor, tf.constant(np.tile(np.arange(length) < kept, (3, 1))))
        return tensor

    def value(of_teacher, of_student):
        sides = [feature(8, 4, of_teacher), feature(4, 3, of_student)]
        return float(loss(*([x, x] if loss.several_layers else x for x in sides)))

    assert value(50.0, 70.0) == pytest.approx(value(0.0, 0.0), rel=1e-6)
