"""One look at the data before training begins."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.finite import check_finite, first_row_not_finite, is_finite
from keras_kd.data.passes import uncounted
from keras_kd.data.taught_inputs import TaughtInputs, student_inputs
from keras_kd.losses.top_k_logits import TopKLogits
from keras_kd.system.quiet import without_noise


@dataclasses.dataclass(frozen=True)
class FirstBatch:
    """A first batch, as the checks before training need it.

    Attributes:
        inputs: What the student receives.
        labels: The labels of the batch or, where they are in memory, all.
        taught: The batch with the teacher's outputs, where the data brings them along.
        sample_weight: The weights of the samples, as the labels, or `None`.
        first_row: Number of its first example in the data.
    """

    inputs: Any
    labels: Any
    taught: TaughtInputs | None = None
    sample_weight: Any = None
    first_row: int = 0


def first_batch(x: Any, y: Any = None, sample_weight: Any = None) -> FirstBatch | None:
    """Return a first batch of `fit`'s data; of arrays one with the first number that is not finite.

    Args:
        x: Arrays or tensors, a `tf.data.Dataset` or a `keras.utils.PyDataset`.
        y: Labels, where `x` is arrays or tensors. Defaults to `None`.
        sample_weight: Weights, where `x` is arrays or tensors. Defaults to `None`.

    Returns:
        The batch, or `None` where looking would use it up (generators, distributed datasets).

    Raises:
        ValueError: If there are no examples.
    """
    if isinstance(x, tf.data.Dataset):
        with uncounted(), without_noise():  # a cached dataset warns that it was not read to its end
            first = list(x.take(1))
        for batch in first:
            inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
            return _batch(inputs, None if labels is None else _arrays(labels), weights)
        raise ValueError(_EMPTY)
    if isinstance(x, keras.utils.PyDataset):
        if len(x) == 0:
            raise ValueError(_EMPTY)
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(x[0])
        return _batch(_tensors(inputs), labels, weights)
    leaves = keras.tree.flatten(x)
    if not leaves or not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        return None
    if any(leaf.shape[0] == 0 for leaf in leaves):
        raise ValueError(_EMPTY)
    start = first_row_not_finite(leaves)
    batch = _batch(
        _tensors(keras.tree.map_structure(lambda leaf: leaf[start : start + 32], x)),
        None if y is None else _arrays(y),
        sample_weight,
    )
    return dataclasses.replace(batch, first_row=start)


def without_losing_the_first(x: Any) -> tuple[Any, FirstBatch | None]:
    """Return a generator's first batch, and a generator that still yields it.

    Args:
        x: Data for `fit`; anything but a generator is returned as it is, without a batch.

    Raises:
        ValueError: If the generator yields nothing.
    """
    if not isinstance(x, types.GeneratorType):
        return x, None
    try:
        first = next(x)
    except StopIteration:
        raise ValueError(_EMPTY) from None

    def again() -> Iterator[Any]:
        yield first
        yield from x

    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(first)
    labels = None if labels is None else _arrays(labels)
    return again(), _batch(_tensors(inputs), labels, weights)


def validation_batch(data: Any) -> FirstBatch | None:
    """Return a first batch of what `fit` takes as `validation_data`.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or what `first_batch` takes.

    Returns:
        The batch, or `None` where there is none or looking would use it up.

    Raises:
        ValueError: If there are no examples.
    """
    if isinstance(data, (tuple, list)) and not isinstance(data, TaughtInputs):
        return first_batch(*keras.utils.unpack_x_y_sample_weight(tuple(data)))
    return None if data is None else first_batch(data)


def check_batched(batch: FirstBatch | None, student: keras.Model) -> None:
    """Refuse a dataset whose elements are single examples.

    Args:
        batch: The first batch, or `None` where there was no look at it.
        student: The model that receives it; one whose inputs are not known is not checked.

    Raises:
        ValueError: If every input lacks just the dimension of the batch.
    """
    # Some subclassed models have no `inputs`.
    specs = getattr(student, "inputs", None)
    if batch is None or not specs:
        return
    received = [tuple(leaf.shape) for leaf in _in_order(batch.inputs, student)]
    expected = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    if len(received) == len(expected) and all(map(_is_one_example, received, expected)):
        raise ValueError(
            "The dataset gives single examples, not batches: the first has inputs of shape "
            f"{_shown(received)}, and the student takes {_shown(expected)}. Pass "
            "dataset.batch(32)."
        )


def check_finite_data(batch: FirstBatch, student: keras.Model) -> None:
    """Refuse a first batch with numbers that are NaN or infinite.

    Inputs may hold some where the student's outputs are finite all the same.

    Args:
        batch: The first batch.
        student: The model that receives it.

    Raises:
        ValueError: Naming the input, the sample weights or the taught outputs.
    """
    advice = "Remove or replace such examples before training."
    check_finite(batch.sample_weight, "sample weights", advice)
    if batch.taught is not None:
        outputs = keras.tree.traverse(_without_empty_rests, batch.taught.outputs)
        check_finite(outputs, "the teacher's outputs in the data", advice)
        check_finite(batch.taught.features, "the teacher's features in the data", advice)
    inputs = _in_order(batch.inputs, student)
    if all(map(is_finite, inputs)):
        return
    outputs = keras.tree.flatten(student(batch.inputs, training=False))
    if all(map(is_finite, outputs)):
        return
    known = [spec.name for spec in keras.tree.flatten(getattr(student, "inputs", None) or [])]
    names = known if len(known) == len(inputs) else list(map(str, range(len(inputs))))
    for name, part in zip(names, inputs, strict=True):
        numbered = len(names) == 1 and name.startswith("keras_tensor")  # by Keras
        what = "values of the input" if numbered else f"values of the input '{name}'"
        check_finite(part, what, advice, batch.first_row)


def _without_empty_rests(part: Any) -> TopKLogits | None:
    """Return top-k logits with a zero where all classes are kept, whose rest is `-inf`."""
    if not isinstance(part, TopKLogits):
        return None
    rest = keras.ops.convert_to_numpy(part.rest)
    return part._replace(rest=np.where(np.isneginf(rest), 0.0, rest))


def check_inputs(batch: FirstBatch, student: keras.Model) -> None:
    """Refuse inputs of a shape which the student does not take.

    Args:
        batch: A first batch.
        student: The model that receives it; one whose inputs are not known is not checked.

    Raises:
        ValueError: If a size differs.
    """
    specs = getattr(student, "inputs", None)
    if not specs:
        return
    received = [tuple(leaf.shape) for leaf in _in_order(batch.inputs, student)]
    expected = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    for given, wanted in zip(received, expected, strict=False):
        if len(given) == len(wanted) and not all(map(_is_size, given[1:], wanted[1:])):
            raise ValueError(
                f"The inputs are of shape {_shown(received)}, and the student takes "
                f"{_shown(expected)}. Resize them as the training data."
            )


def _in_order(inputs: Any, model: keras.Model) -> list[Any]:
    """Return the parts of a batch in the order of a model's inputs; Keras finds them by name."""
    names = [spec.name for spec in keras.tree.flatten(getattr(model, "inputs", None) or [])]
    by_name = bool(names) and isinstance(inputs, Mapping) and all(n in inputs for n in names)
    # A model whose inputs are a dictionary itself has them in the order of its keys.
    if by_name and not isinstance(model.input, Mapping):
        return [inputs[name] for name in names]
    return keras.tree.flatten(inputs)


def _is_size(given: int | None, wanted: int | None) -> bool:
    return given is None or wanted is None or given == wanted


def _is_one_example(received: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    if len(received) != len(expected) - 1 or expected[1:] == (1,):
        return False  # as a batch of numbers, to which Keras itself adds a dimension
    return all(b in (None, a) for a, b in zip(received, expected[1:], strict=True))


def _shown(shapes: list[tuple[Any, ...]]) -> str:
    return str(shapes[0] if len(shapes) == 1 else shapes)


_EMPTY = (
    "The dataset holds no examples, so there is nothing to train on. Check the path, the split "
    "and the filters it was made with; `batch(..., drop_remainder=True)` drops a dataset that is "
    "smaller than one batch."
)


def _batch(inputs: Any, labels: Any, sample_weight: Any) -> FirstBatch:
    taught = inputs if isinstance(inputs, TaughtInputs) else None
    return FirstBatch(student_inputs(inputs), labels, taught, sample_weight)


def _arrays(structure: Any) -> Any:
    return keras.tree.map_structure(np.asarray, structure)


def _tensors(structure: Any) -> Any:
    return keras.tree.map_structure(tf.convert_to_tensor, structure)
