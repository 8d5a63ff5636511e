import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.compression.pruning.masks import (
    fewest_zeros,
    global_masks,
    masked_fraction,
    spared_weights,
    tfmot_masks,
)
from keras_kd.compression.stages.kernels import PrunableWeight
from keras_kd.models.tfmot import import_tfmot


def _weights(*shapes, inputs=None, seed=0):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=shape).astype("float32") for shape in shapes]
    weights = [
        PrunableWeight(
            keras.Variable(value),
            (value.ndim - 2,) if inputs is None else inputs,
            (value.ndim - 1,) if inputs is None else (),
        )
        for value in values
    ]
    return weights, [tf.constant(value) for value in values], values


def _two_of_four(matrix):
    """Mask of a matrix `[rows, inputs]` that keeps the two largest of each four inputs."""
    mask = np.zeros_like(matrix)
    for row, values in enumerate(np.abs(matrix)):
        for begin in range(0, len(values), 4):
            group = values[begin : begin + 4]
            kept = np.argsort(-group, kind="stable")[:2]
            mask[row, begin + kept] = 1
    return mask


@pytest.mark.parametrize(
    ("shape", "inputs", "to_rows"),
    [
        ((8, 3), None, lambda k: k.T),
        ((10, 3), None, lambda k: k.T),
        ((3, 3, 8, 5), None, lambda k: k.transpose(3, 0, 1, 2).reshape(-1, 8)),
        ((3, 8, 5), None, lambda k: k.transpose(2, 0, 1).reshape(-1, 8)),
        ((2, 3, 2, 8, 5), None, lambda k: k.transpose(4, 0, 1, 2, 3).reshape(-1, 8)),
        ((2, 2, 5, 8), (3,), lambda k: k.reshape(-1, 8)),
        ((3, 5, 8), (2,), lambda k: k.reshape(-1, 8)),
        ((8, 2, 3), (0,), lambda k: k.transpose(1, 2, 0).reshape(-1, 8)),
        ((2, 4, 5), (0, 1), lambda k: k.transpose(2, 0, 1).reshape(-1, 8)),
    ],
)
def test_two_zeros_in_four_inputs(shape, inputs, to_rows):
    weights, tensors, (value,) = _weights(shape, inputs=inputs)
    (mask,) = tfmot_masks(weights, tensors, tf.constant(0.5), sparsity_m_by_n=(2, 4))
    assert mask.shape == shape
    np.testing.assert_array_equal(to_rows(mask.numpy()), _two_of_four(to_rows(value)))


@pytest.mark.parametrize(("pooling", "pool"), [("AVG", np.mean), ("MAX", np.max)])
def test_blocks_of_a_convolution_are_those_of_its_matrix(pooling, pool):
    weights, tensors, (value,) = _weights((3, 3, 2, 8))
    (mask,) = tfmot_masks(
        weights, tensors, tf.constant(0.75), block_size=(2, 4), block_pooling_type=pooling
    )
    blocks = np.abs(value).reshape(9, 2, 2, 4).transpose(0, 2, 1, 3).reshape(9, 2, 8)
    pooled = pool(blocks, axis=-1)
    kept = pooled >= np.sort(pooled.ravel())[-round(18 * 0.25)]
    expected = np.kron(kept, np.ones((2, 4))).reshape(3, 3, 2, 8)
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.31, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (17, 6), (1, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_masks_of_single_weights_are_those_that_tf_mot_finds_by_sorting(shape, sparsity, ties):
    import_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    weights, (tensor,), _ = _weights(shape)
    tensor = tf.round(tensor * 3.0) if ties else tensor
    engine = pruning_impl.Pruning(
        lambda: 1, [], lambda step: (True, tf.constant(sparsity)), (1, 1), "AVG"
    )
    _, expected = engine._maybe_update_block_mask(tensor)
    (mask,) = tfmot_masks(weights, [tensor], tf.constant(sparsity))
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_the_fewest_zeros_of_a_kernel(sparsity):
    (weight,), tensors, _ = _weights((3, 3, 2, 7))
    for block in ((1, 1), (9, 1), (4, 3)):
        (mask,) = tfmot_masks([weight], tensors, tf.constant(sparsity), block)
        zeros, fewest = np.sum(mask.numpy() == 0), fewest_zeros(weight, sparsity, block)
        assert zeros >= fewest
        assert zeros == fewest or block == (4, 3)  # blocks at the edges are smaller


@pytest.mark.parametrize(("shape", "kept"), [((6, 1), 2), ((6, 3), 2), ((1, 12), 1)])
def test_kernels_of_one_block_in_an_axis(shape, kept):
    # TF-MOT fails on these.
    weights, tensors, (value,) = _weights(shape)
    (mask,) = tfmot_masks(weights, tensors, tf.constant(0.67), block_size=(1, 4))
    groups = np.abs(value).reshape(-1, min(4, shape[1])).mean(1)
    expected = np.repeat(groups >= np.sort(groups)[-kept], min(4, shape[1])).reshape(shape)
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.9])
def test_a_global_threshold_keeps_the_largest_of_all(sparsity):
    weights, tensors, values = _weights((5, 7), (3, 3, 2, 4), (11, 2))
    tensors[1], values[1] = tensors[1] * 1.2, values[1] * np.float32(1.2)
    masks = global_masks(weights, tensors, tf.constant(sparsity, tf.float64))
    flat = np.abs(np.concatenate([value.ravel() for value in values]))
    kept = round(flat.size * (1 - sparsity))
    expected = flat >= np.sort(flat)[-kept]
    np.testing.assert_array_equal(np.concatenate([m.numpy().ravel() for m in masks]), expected)
    assert masked_fraction(masks) == pytest.approx(1 - kept / flat.size)


def test_equal_weights_do_not_change_the_number_that_is_kept():
    weights, tensors, _ = _weights((10, 10), (10, 10))
    tensors = [tf.ones_like(tensor) for tensor in tensors]
    masks = global_masks(weights, tensors, tf.constant(0.6, tf.float64))
    assert masked_fraction(masks) == pytest.approx(0.6)


def test_no_layer_is_emptied_and_a_ceiling_holds():
    weights, tensors, values = _weights((10, 10), (20, 20))
    tensors[0], values[0] = tensors[0] * 1e-3, values[0] * np.float32(1e-3)
    first, _ = global_masks(weights, tensors, tf.constant(0.9, tf.float64))
    assert np.flatnonzero(first.numpy()) == np.abs(values[0]).argmax()
    masks = global_masks(weights, tensors, tf.constant(0.9, tf.float64), max_layer_sparsity=0.95)
    assert masked_fraction(masks[:1]) == pytest.approx(0.95)
    assert masked_fraction(masks) == pytest.approx(0.9)
    kept = np.sort(np.abs(values[0]).ravel())[-5:]
    np.testing.assert_array_equal(np.sort(np.abs(values[0][masks[0].numpy() == 1])), kept)
    assert spared_weights(100, 0.95) == 5
    assert spared_weights(3, 1.0) == 1
