"""How the masks of pruning are chosen: kernel by kernel, in blocks, m of n, or all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.compression.stages.kernels import PrunableWeight
from keras_kd.models.tfmot import mask_function


def tfmot_masks(
    weights: Sequence[PrunableWeight],
    values: Sequence[tf.Tensor],
    sparsity: tf.Tensor,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: Sequence[int] | None = None,
) -> list[tf.Tensor]:
    """Return TF-MOT's masks, each kernel by itself.

    For blocks and m-by-n sparsity kernels are handed to TF-MOT as the matrix of inputs by outputs
    that they stand for; m-by-n sparsity runs along the inputs of one position.

    Args:
        weights: The kernels.
        values: Their values.
        sparsity: Fraction of zeros, a float32 scalar; without effect on m-by-n sparsity.
        block_size: Height and width of the blocks. Defaults to `(1, 1)`.
        block_pooling_type: `"AVG"` or `"MAX"`. Defaults to `"AVG"`.
        sparsity_m_by_n: Zeros `m` in `n` consecutive weights. Defaults to `None`.

    Returns:
        A mask of ones and zeros for each kernel, of its shape and type.
    """

    def single(values: tf.Tensor) -> tf.Tensor:
        return _mask_without_sorting(values, sparsity)

    choose = mask_function(single, sparsity, sparsity_m_by_n)
    in_blocks = tuple(block_size) != (1, 1)
    masks = []
    for weight, value in zip(weights, values, strict=True):
        if in_blocks:
            matrix = weight.to_matrix(value)
            mask = weight.from_matrix(_block_mask(single, matrix, block_size, block_pooling_type))
        elif sparsity_m_by_n:
            mask = weight.from_matrix(
                choose(weight.to_matrix(value, by_position=True)), by_position=True
            )
        else:
            mask = choose(value)
        masks.append(tf.cast(mask, value.dtype))
    return masks


def _mask_without_sorting(values: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Return the mask of `Pruning._update_mask`, in a time in proportion to the kernel's size."""
    magnitudes = tf.abs(values)
    kept = tf.cast(tf.size(values), tf.float32) * (1.0 - sparsity)
    kept = tf.cast(tf.maximum(tf.math.round(kept), 1.0), tf.int32)
    flat = tf.reshape(magnitudes, [-1])
    threshold = tf.raw_ops.NthElement(input=flat, n=kept - 1, reverse=True)
    return tf.cast(magnitudes >= threshold, values.dtype)


def _block_mask(
    choose: Callable[[tf.Tensor], tf.Tensor],
    matrix: tf.Tensor,
    block_size: Sequence[int],
    pooling_type: str,
) -> tf.Tensor:
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_utils

    rows, columns = (int(n) for n in matrix.shape)
    size = list(block_size)
    pooled = pruning_utils.factorized_pool(
        tf.abs(matrix), size, pooling_type, strides=size, padding="SAME"
    )
    # TF-MOT drops an axis of one block here, and then fails.
    blocks = [-(-rows // size[0]), -(-columns // size[1])]
    mask = choose(tf.reshape(pooled, blocks))
    return pruning_utils.expand_tensor(mask, size)[:rows, :columns]


def global_masks(
    weights: Sequence[PrunableWeight],
    values: Sequence[tf.Tensor],
    sparsity: tf.Tensor,
    max_layer_sparsity: float | None = None,
) -> list[tf.Tensor]:
    """Return masks that keep the largest weights of all kernels together.

    The number that is kept is exact, to the rounding of one weight. The largest weight of each
    kernel is kept in any case.

    Args:
        weights: The kernels.
        values: Their values.
        sparsity: Fraction of zeros in all kernels together, a float64 scalar.
        max_layer_sparsity: Largest fraction of zeros in one kernel. Defaults to `None`: no bound.

    Returns:
        A mask of ones and zeros for each kernel, of its shape and type.
    """
    sizes = [weight.size for weight in weights]
    spared = [spared_weights(size, max_layer_sparsity) for size in sizes]
    magnitudes = [tf.cast(tf.abs(tf.reshape(value, [-1])), tf.float32) for value in values]
    ranked = []
    for magnitude, count in zip(magnitudes, spared, strict=True):
        places = tf.math.top_k(magnitude, k=count).indices[:, tf.newaxis]
        largest = tf.fill([count], np.float32(np.inf))
        ranked.append(tf.tensor_scatter_nd_update(magnitude, places, largest))
    total = sum(sizes)
    kept = tf.cast(tf.math.round(np.float64(total) * (1.0 - sparsity)), tf.int32)
    kept = tf.maximum(kept, sum(spared))
    mask = _largest(tf.concat(ranked, 0), kept)
    return [
        tf.cast(tf.reshape(part, weight.shape), value.dtype)
        for part, weight, value in zip(tf.split(mask, sizes), weights, values, strict=True)
    ]


def _largest(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return where the `count` largest of `values` are; of equal ones the first."""
    threshold = tf.raw_ops.NthElement(input=values, n=count - 1, reverse=True)
    above, equal = values > threshold, tf.equal(values, threshold)
    missing = count - tf.math.count_nonzero(above, dtype=tf.int32)
    first = tf.cumsum(tf.cast(equal, tf.int32)) <= missing
    return above | (equal & first)


def spared_weights(size: int, max_layer_sparsity: float | None) -> int:
    """Return how many weights of a kernel a global threshold may not prune."""
    if max_layer_sparsity is None:
        return 1
    return max(1, int(np.ceil(size * (1.0 - max_layer_sparsity) - 1e-6)))


def fewest_zeros(
    weight: PrunableWeight, sparsity: float, block_size: Sequence[int] = (1, 1)
) -> int:
    """Return how many zeros `tfmot_masks` gives a kernel at least, unless magnitudes are equal.

    Args:
        weight: The kernel.
        sparsity: Fraction of zeros.
        block_size: Height and width of the blocks; those at an edge may be smaller. Defaults to
            `(1, 1)`.
    """
    if tuple(block_size) == (1, 1):
        return weight.size - max(round(weight.size * (1.0 - sparsity)), 1)
    lengths = weight.to_matrix(tf.zeros(weight.shape)).shape
    parts = [
        np.diff([*range(0, length, size), length])
        for length, size in zip(lengths, block_size, strict=True)
    ]
    sizes = np.sort(np.outer(*parts), axis=None)
    kept = max(round(sizes.size * (1.0 - sparsity)), 1)
    return int(sizes[: sizes.size - kept].sum())


def masked_fraction(masks: Sequence[Any]) -> float:
    """Return the fraction of zeros in all masks together."""
    sizes = [int(tf.size(mask)) for mask in masks]
    kept = [float(tf.math.count_nonzero(mask)) for mask in masks]
    return 1.0 - sum(kept) / sum(sizes)
