"""Labels out of range behind the first batch."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.data.batches import WrappedPyDataset
from keras_kd.data.labels import class_labels
from keras_kd.losses.shared.base import UNEQUAL_SIZES
from keras_kd.models.structures import at


@dataclasses.dataclass(frozen=True)
class LabelRange:
    """The class numbers that a loss reads, at one place of the labels.

    Attributes:
        path: Keys and indices that lead to the labels.
        names: Names of the outputs, by which the labels may be keyed.
        classes: Labels are whole numbers from 0 to below this.
        ignored: One more label that is allowed, or `None`.
    """

    path: tuple[Any, ...]
    names: Any
    classes: int
    ignored: int | None

    def wrong(self, y: Any) -> Any:
        """Return which labels of a batch are out of range, and the labels; `None` if unknown."""
        try:
            labels = at(y, self.path, self.names) if keras.tree.is_nested(y) else y
            labels = tf.convert_to_tensor(getattr(labels, "flat_values", labels))
        except (LookupError, TypeError, ValueError):
            return None
        if not (labels.dtype.is_integer or labels.dtype.is_floating):
            return None
        values = tf.cast(labels, "float64")
        wrong = (values < 0) | (values >= self.classes) | (values != tf.floor(values))
        if self.ignored is not None:
            wrong &= values != self.ignored
        return wrong, values


def with_checked_labels(data: Any, ranges: Sequence[LabelRange]) -> Any:
    """Return training or validation data that ends in an error at a label out of range.

    The labels of every batch are compared while the batch is prepared, also where the step is
    compiled by XLA, whose losses turn such labels into NaN.

    Args:
        data: A `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator; anything else is
            returned as it is.
        ranges: What labels there may be.
    """
    if not ranges:
        return data
    if isinstance(data, tf.data.Dataset):
        return data.map(lambda *batch: _checked_in_graph(batch, ranges))
    if isinstance(data, keras.utils.PyDataset) and not data.use_multiprocessing:
        return _CheckedPyDataset(data, ranges)
    if isinstance(data, types.GeneratorType):
        return (_checked(batch, ranges) for batch in data)
    return data


@contextlib.contextmanager
def short_errors() -> Iterator[None]:
    """Turn TensorFlow's errors at a label out of range, or at unequal sizes, into a sentence.

    Raises:
        ValueError: Naming the label and the range, or the sizes.
    """
    try:
        yield
    except (tf.errors.OpError, ValueError) as error:
        if (sizes := _SIZES.search(str(error))) is not None:
            raise ValueError(
                f"{sizes[1]}. Received: a tensor of shape ({', '.join(sizes[2].split())}) of the "
                f"teacher and ({', '.join(sizes[3].split())}) of the student. Name layers, or "
                "outputs, that have equal sizes for each batch."
            ) from None
        found = _MESSAGE.search(str(error))
        if found is None:
            raise
        label, classes = float(found[1]), int(found[2])
        raise ValueError(
            f"Labels must be whole numbers in 0 ... {classes - 1}, because the student has "
            f"{classes} outputs. Received: label={label:g} after the first batch. Correct the "
            "labels, or, if it means no label, use keras.losses."
            f"SparseCategoricalCrossentropy(from_logits=True, ignore_class={label:g})."
        ) from None


# TensorFlow's own words, which its loss uses on CPUs.
_MESSAGE = re.compile(
    r"Received a label value of (\S+) which is outside the valid range of \[0, (\d+)\)"
)


_SIZES = re.compile(
    rf"\[(\w+ {UNEQUAL_SIZES}):\]\s*\[([\d ]*)\]\s*\[([\d ]*)\]"
)  # fmt: skip


def _message(label: Any, classes: int) -> str:
    return f"Received a label value of {label} which is outside the valid range of [0, {classes})"


@tf.autograph.experimental.do_not_convert
def _checked_in_graph(batch: tuple[Any, ...], ranges: Sequence[LabelRange]) -> Any:
    for part in ranges:
        found = part.wrong(_labels_in(batch))
        if found is not None:
            tf.cond(
                tf.reduce_any(found[0]),
                lambda found=found, part=part: _refuse(found, part.classes),
                lambda: tf.constant(True),
            )
    return batch if len(batch) > 1 else batch[0]


def _refuse(found: tuple[Any, Any], classes: int) -> Any:
    label = tf.boolean_mask(found[1], found[0])[0]
    message = tf.strings.format(_message("{}", classes), [label])
    with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
        return tf.constant(False)


def _checked(batch: Any, ranges: Sequence[LabelRange]) -> Any:
    for part in ranges:
        found = part.wrong(_labels_in(batch))
        if found is not None and bool(tf.reduce_any(found[0])):
            label = float(tf.boolean_mask(found[1], found[0])[0])
            raise ValueError(_message(label, part.classes))
    return batch


def _labels_in(batch: Any) -> Any:
    return class_labels(keras.utils.unpack_x_y_sample_weight(batch)[1])


class _CheckedPyDataset(WrappedPyDataset):
    def __init__(self, data: Any, ranges: Sequence[LabelRange]) -> None:
        super().__init__(data)
        self._ranges = ranges

    def __getitem__(self, index: int) -> Any:
        return _checked(self._data[index], self._ranges)
