"""The kinds of data that compression takes, as batches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.numpy_batches import arrays_of, is_endless
from keras_kd.system.arguments import number
from keras_kd.system.quiet import without_noise

_BATCH_SIZE = 32


def as_batches(data: Any, argument: str, shuffle: bool = False) -> Any:
    """Return `data` as batches.

    Args:
        data: A `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, or a tuple of arrays
            `(x, y)` or `(x, y, sample_weight)`, which is cut into batches of 32.
        argument: The name under which the user gave it.
        shuffle: Whether to shuffle arrays. Defaults to `False`.

    Raises:
        TypeError: If it is of another kind.
    """
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        return data
    if isinstance(data, PassOrder):
        return data.make(0, 0)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        data = arrays_of(tuple(data), argument)
        if shuffle:
            return shuffled_batches(data, random.randrange(2**31))
        return tf.data.Dataset.from_tensor_slices(data).batch(_BATCH_SIZE)
    raise TypeError(
        f"`{argument}` must be a tf.data.Dataset of batches, a keras.utils.PyDataset or a tuple "
        f"of arrays (x, y). Received: {type(data).__name__}."
    )


def held_out(train: Any, validation_data: Any, validation_split: float) -> tuple[Any, Any]:
    """Return training and validation data, the last part of arrays held out as `fit` does it.

    Args:
        train: What `as_batches` takes.
        validation_data: The same, or `None`.
        validation_split: The fraction to hold out; 0 leaves both as they are.

    Raises:
        ValueError: If it is out of range, `train` is not arrays, or there are validation data.
    """
    number("validation_split", validation_split, least=0, below=1)
    if not validation_split:
        return train, validation_data
    if validation_data is not None:
        raise ValueError("Pass `validation_data` or `validation_split`. Received: both.")
    if not isinstance(train, (tuple, list)):
        raise ValueError(
            "`validation_split` splits arrays (x, y). Received: `train` of type "
            f"{type(train).__name__}. Pass `validation_data` instead."
        )
    train = arrays_of(tuple(train), "train")
    count = len(keras.tree.flatten(train)[0])
    split = math.floor(count * (1.0 - validation_split))
    if split in (0, count):
        raise ValueError(
            f"`validation_split` leaves no examples on one side. Received: "
            f"validation_split={validation_split!r} of {count} examples."
        )
    first, last = (
        keras.tree.map_structure(lambda values, part=part: values[part], train)
        for part in (slice(split), slice(split, None))
    )
    return first, last


def refuse_endless(data: Any, argument: str) -> None:
    """Refuse a dataset without an end.

    Args:
        data: Batches, or `None`.
        argument: The name under which the user gave them.

    Raises:
        ValueError: If it has none.
    """
    if is_endless(data):
        raise ValueError(
            f"`{argument}` has no end (a `repeat()` without a count), and epochs need one. Use "
            f"`{argument}.take(steps)`."
        )


def generated(make: Callable[[], Iterator[Any]], signature: Any) -> tf.data.Dataset:
    """Return the dataset of what a generator yields.

    Args:
        make: Returns the generator, in each pass.
        signature: The specification of an element.
    """
    _use_a_generator()
    return tf.data.Dataset.from_generator(make, output_signature=signature)


@functools.cache
def _use_a_generator() -> None:
    """Let TensorFlow log what it logs of the first generator of a process."""
    spec = tf.TensorSpec((), tf.int32)
    with without_noise():
        list(tf.data.Dataset.from_generator(lambda: iter([0]), output_signature=spec))


def shuffled_batches(arrays: Any, seed: int, first_pass: int = 0) -> tf.data.Dataset:
    """Return arrays as batches, in another order in each pass.

    The order is a function of the seed and the number of the pass, whatever happened before in
    the process, so that a training can go on in the middle.

    Args:
        arrays: A tuple of arrays, or of structures of arrays, of the same length.
        seed: Decides on the orders.
        first_pass: Number of the first pass. Defaults to `0`.
    """
    dataset = tf.data.Dataset.from_tensor_slices(arrays_of(tuple(arrays), "train"))
    count = len(dataset)
    if count == 0:
        return dataset.batch(_BATCH_SIZE)
    whole = dataset.batch(count).get_single_element()
    passes = itertools.count(first_pass)

    def order() -> Iterator[np.ndarray]:
        yield np.random.default_rng([seed, next(passes)]).permutation(count)

    indices = generated(order, tf.TensorSpec((count,), tf.int64))
    batches = indices.unbatch().batch(_BATCH_SIZE)

    @tf.autograph.experimental.do_not_convert
    def gathered(chosen: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda values: tf.gather(values, chosen), whole)

    batches = batches.map(gathered)
    length = -(-count // _BATCH_SIZE)
    return batches.apply(tf.data.experimental.assert_cardinality(length))


@dataclasses.dataclass(frozen=True)
class PassOrder:
    """Training data whose order is a function of a seed and the number of the pass.

    A training that is resumed sees the orders that it would have seen.

    Attributes:
        make: Returns the batches, given a seed and the number of the first pass.
    """

    make: Callable[[int, int], tf.data.Dataset]


class WrappedPyDataset(keras.utils.PyDataset):
    """A `keras.utils.PyDataset` that reads another one. A subclass writes `__getitem__`.

    Args:
        data: The other dataset.
    """

    def __init__(self, data: keras.utils.PyDataset) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data = data

    @property
    def num_batches(self) -> Any:
        """The number of batches in a pass."""
        return self._data.num_batches

    def on_epoch_begin(self) -> None:
        """Tell the other dataset."""
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the other dataset."""
        self._data.on_epoch_end()


class ShuffledByPass(WrappedPyDataset):
    """The batches of a `keras.utils.PyDataset`, in the order of a seed and the number of the pass.

    `fit(shuffle=True)` draws its orders one after the other, and a resumed process begins again.

    Args:
        data: The dataset.
        seed: Decides on the orders.
        first_pass: Number of the first pass. Defaults to `0`.
    """

    def __init__(self, data: keras.utils.PyDataset, seed: int, first_pass: int = 0) -> None:
        super().__init__(data)
        self._seed, self._pass = seed, first_pass

    def __len__(self) -> int:
        return int(self.num_batches)

    def __getitem__(self, index: int) -> Any:
        order = np.random.default_rng([self._seed, self._pass]).permutation(len(self))
        return self._data[int(order[index])]

    def on_epoch_end(self) -> None:
        """Go on to the next order."""
        super().on_epoch_end()
        self._pass += 1


def shuffled_by_pass(
    examples: tf.data.Dataset | Callable[[tf.Tensor], tf.data.Dataset],
    count: int,
    buffer: int,
    seed: int,
    first_pass: int = 0,
) -> tf.data.Dataset:
    """Return examples in an order that depends on the seed and the number of the pass alone.

    `tf.data.Dataset.shuffle` counts the passes of the process, and begins again in the next one.

    Args:
        examples: The examples, or a function that returns those of a pass by its number.
        count: How many there are.
        buffer: As in `tf.data.Dataset.shuffle`.
        seed: Decides on the orders.
        first_pass: Number of the first pass. Defaults to `0`.
    """
    passes = itertools.count(first_pass)

    def numbers() -> Iterator[np.ndarray]:
        number = next(passes)
        drawn = np.random.default_rng([seed, number]).integers(2**31, size=(), dtype=np.int64)
        yield np.stack([number, drawn])

    seeds = generated(numbers, tf.TensorSpec((2,), tf.int64))

    @tf.autograph.experimental.do_not_convert
    def shuffled(drawn: tf.Tensor) -> tf.data.Dataset:
        # Instead of the global seed, beside which TensorFlow takes no tensor if it is 0.
        tf.compat.v1.get_default_graph().seed = 1
        of_pass = examples(drawn[0]) if callable(examples) else examples
        return of_pass.shuffle(buffer, seed=drawn[1], reshuffle_each_iteration=False)

    return seeds.flat_map(shuffled).apply(tf.data.experimental.assert_cardinality(count))
