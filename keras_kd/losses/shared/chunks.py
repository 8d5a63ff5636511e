"""Losses of rows, and their gradients, computed in place a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

RowFunction = Callable[[Sequence[Any], Any], Any]


def in_chunks(
    value: RowFunction,
    gradient: RowFunction,
    teacher: Sequence[Any],
    student: Any,
    chunk_size: int,
) -> Any:
    """Return `value(teacher, student)`, computed a chunk of rows at a time.

    In a `tf.function` no more exists at a time, beside the arguments and the student's gradient,
    than what the functions make of `chunk_size` rows. It cannot be compiled with XLA. The teacher
    receives no gradient, and a second derivative is not defined.

    Args:
        value: Called with the teacher's tensors and the student's `[chunk, classes]`, returns the
            value of each row, `[chunk]`.
        gradient: Called likewise, returns the derivative of each row's value with respect to the
            student's row, `[chunk, classes]`.
        teacher: Tensors `[rows, ...]`.
        student: `[rows, classes]`.
        chunk_size: Number of rows of a chunk.

    Returns:
        Tensor `[rows]`, float32 or wider.
    """
    dtype = tf.float64 if student.dtype == tf.float64 else tf.float32

    @tf.custom_gradient
    def chunked(student: Any) -> Any:
        def of_values(upstream: Any) -> Any:
            def of_chunk(cut: Callable[[Any], Any]) -> Any:
                slopes = gradient([cut(tensor) for tensor in teacher], cut(student))
                return tf.cast(cut(upstream)[:, tf.newaxis] * slopes, student.dtype)

            return _collect(of_chunk, student, chunk_size, student.shape[1:], student.dtype)

        values = _collect(
            lambda cut: value([cut(tensor) for tensor in teacher], cut(student)),
            student,
            chunk_size,
            tf.TensorShape([]),
            dtype,
        )
        return values, of_values

    return chunked(student)


def _collect(
    function: Callable[[Callable[[Any], Any]], Any],
    rows: Any,
    chunk_size: int,
    shape: tf.TensorShape,
    dtype: tf.DType,
) -> Any:
    """Return what `function` gives for each chunk, one behind the other, `[rows, *shape]`."""
    count = tf.shape(rows)[0]
    full = tf.concat([[count], tf.constant(shape.as_list(), tf.int32)], axis=0)
    if tf.executing_eagerly():
        starts = range(0, int(count), chunk_size)
        parts = [function(_cutter(start, start + chunk_size)) for start in starts]
        return tf.concat(parts, axis=0) if parts else tf.zeros(full, dtype)

    def body(start: Any, collected: Any) -> tuple[Any, Any]:
        end = tf.minimum(start + chunk_size, count)
        part = function(_cutter(start, end))
        # Other updates of a loop variable copy all of it in every iteration.
        collected = tf.raw_ops.InplaceUpdate(x=collected, i=tf.range(start, end), v=part)
        return end, tf.ensure_shape(collected, [None, *shape])

    # `Empty` owns its memory; zeros could be shared with other tensors, which are not to change.
    collected = tf.ensure_shape(tf.raw_ops.Empty(shape=full, dtype=dtype), [None, *shape])
    _, collected = tf.while_loop(
        lambda start, _: start < count, body, [0, collected], parallel_iterations=1
    )
    return collected


def _cutter(start: Any, end: Any) -> Callable[[Any], Any]:
    return lambda tensor: tensor[start:end]
