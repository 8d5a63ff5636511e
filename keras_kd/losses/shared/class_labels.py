"""Class labels as masks, and distributions over the classes other than the label's."""

from __future__ import annotations

from typing import Any

from keras import ops


def label_mask(labels: Any, logits: Any) -> Any:
    """Return where each position's own class is.

    Args:
        labels: Class indices `[...]` or `[..., 1]`, or one-hot `[..., classes]`, of which the
            largest entry counts.
        logits: Tensor `[..., classes]`.

    Returns:
        Booleans `[..., classes]`; all false where a label lies outside of `0..classes - 1` or a
        one-hot label is all zero, the ways to mark a position without label.

    Raises:
        ValueError: If the labels do not fit the logits.
    """
    shape, classes = tuple(labels.shape), logits.shape[-1]
    labeled = None
    if len(shape) == len(logits.shape) and shape[-1] == 1:
        labels = ops.squeeze(labels, -1)
    elif len(shape) == len(logits.shape) and shape[-1] == classes:
        labeled = ops.max(labels, axis=-1, keepdims=True) > 0
        labels = ops.argmax(labels, axis=-1)
    if len(labels.shape) != len(logits.shape) - 1 or any(
        a is not None and b is not None and a != b
        for a, b in zip(labels.shape, logits.shape[:-1], strict=True)
    ):
        raise ValueError(
            f"Labels of shape {shape} do not fit logits of shape {tuple(logits.shape)}. Pass class "
            f"indices of shape {tuple(logits.shape[:-1])} or one-hot labels."
        )
    indices = ops.expand_dims(ops.cast(labels, "int32"), -1)
    mask = ops.equal(indices, ops.arange(classes, dtype="int32"))
    return mask if labeled is None else ops.logical_and(mask, labeled)


def others_log_softmax(logits: Any, mask: Any) -> Any:
    """Return the log-softmax over the classes outside of `mask`, and zero inside of it."""
    others = ops.where(mask, ops.full_like(logits, -float("inf")), logits)
    return ops.where(mask, ops.zeros_like(logits), ops.log_softmax(others, axis=-1))


def others_log_sum_exp(logits: Any, mask: Any) -> Any:
    """Return the logarithm of the summed exponentials of the classes outside of `mask`."""
    others = ops.where(mask, ops.full_like(logits, -float("inf")), logits)
    return ops.logsumexp(others, axis=-1)
