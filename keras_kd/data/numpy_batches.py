"""Reading data as NumPy batches which a model's inputs accept."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import keyword
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.data.input import Input
from keras_kd.data.taught_inputs import TaughtInputs

_PATIENCE = 2.0  # seconds until a bar is shown


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch of data.

    Attributes:
        inputs: Arrays by input name, of the inputs' types.
        x: The same inputs in the structure in which the data gave them, for the Keras model.
        y: Labels as the data gave them, or `None`.
        size: Number of samples.
        sample_weight: Sample weights as the data gave them, or `None`.
    """

    inputs: dict[str, np.ndarray]
    x: Any
    y: Any
    size: int
    sample_weight: Any = None


def safe_name(name: str) -> str:
    """Return the name of an input or output as it stands in a file's signature.

    TensorFlow takes only names of parameters that a Python function could have, in ASCII and with
    a letter first: "größe" becomes "gro_e", "1st" becomes "x_1st" and "class" becomes "class_".
    """
    letters = unicodedata.normalize("NFKD", name)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    safe = re.sub(r"\W", "_", letters, flags=re.ASCII)
    if not safe[:1].isalpha():
        return f"x_{safe}"
    return f"{safe}_" if keyword.iskeyword(safe) or safe == "self" else safe


def iterate(
    data: Any,
    inputs: Sequence[Input],
    batch_size: int,
    argument: str,
    max_samples: int | None = None,
) -> Iterator[Batch]:
    """Read `data` batch by batch.

    Args:
        data: A `tf.data.Dataset` (batched or not), a `keras.utils.PyDataset` or another iterable of
            `x`, `(x, y)` or `(x, y, sample_weight)` elements; or arrays: `x`, `(x, y)` or
            `(x, y, sample_weight)`; or a function without arguments that returns one of these, as
            the generator function of a TFLite converter. With several inputs, `x` is a dict by name
            or a tuple or list in the model's order.
        inputs: The model's inputs.
        batch_size: Batch size for arrays and for datasets which are not batched.
        argument: The name under which the caller's user knows `data`, for error messages.
        max_samples: The most samples to read: of arrays those at even distances, so that data
            sorted by class is covered, of anything else the first. Defaults to `None`, all.

    Yields:
        `Batch`es of one sample or more.

    Raises:
        ValueError: If the data's structure, shapes or sizes do not fit the inputs.
        TypeError: If the data is not numeric, or does not fit an integer input.
    """
    if max_samples is not None:
        if is_arrays(data := arrays_of(data, argument)):
            data = select_arrays(data, max_samples, argument)
        yield from _limited(iterate(data, inputs, batch_size, argument), max_samples)
        return
    for element in _elements(data, inputs, batch_size, argument):
        x, y, weight = _split(element, inputs)
        named = _by_name(x, inputs, argument)
        arrays = {i.name: _as_array(named[i.name], i, argument) for i in inputs}
        sizes = {array.shape[0] for array in arrays.values()}
        sizes |= {np.shape(labels)[0] for labels in _leaves((y, weight)) if np.ndim(labels)}
        if len(sizes) != 1:
            raise ValueError(
                f"`{argument}` gives inputs and labels of different lengths in one batch: "
                f"{sorted(sizes)}. Give as many labels as samples."
            )
        size = sizes.pop()
        if size:
            yield Batch(arrays, x, y, size, weight)


def _elements(data: Any, inputs: Sequence[Input], batch_size: int, argument: str) -> Iterator[Any]:
    import keras
    import tensorflow as tf

    if callable(data) and not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset, Iterable)):
        data = _called(data, argument)
    data = arrays_of(data, argument)

    def is_one_sample(element: Any, rank_of: Callable[[Any], int | None]) -> bool:
        x, _, _ = _split(element, inputs)
        first = _by_name(x, inputs, argument)[inputs[0].name]
        return rank_of(first) == len(inputs[0].shape) - 1

    if isinstance(data, tf.data.Dataset):
        if is_one_sample(data.element_spec, lambda spec: spec.shape.rank):
            data = data.batch(batch_size)
        for element in data:
            yield tf.nest.map_structure(np.asarray, element)
    elif isinstance(data, keras.utils.PyDataset):
        for i in itertools.count() if data.num_batches is None else range(data.num_batches):
            yield data[i]
    elif is_arrays(data):
        for start in range(0, _length(data, argument), batch_size):
            yield _map(data, lambda leaf, s=start: np.asarray(leaf)[s : s + batch_size])
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        for element in data:
            alone = is_one_sample(element, np.ndim)
            yield _map(element, lambda leaf: np.asarray(leaf)[None]) if alone else element
    else:
        raise TypeError(
            f"`{argument}` must be a tf.data.Dataset, arrays (x, y) or an iterable of batches. "
            f"Received: {type(data).__name__}."
        )


def _called(function: Any, argument: str) -> Any:
    """Return what a generator function yields."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        raise TypeError(
            f"`{argument}` is a function that cannot be called without arguments. Received: "
            f"{argument}={name}. Pass a function that takes none and yields batches, as the "
            "`representative_dataset` of a TFLite converter."
        ) from None
    if not isinstance(made := function(), Iterable):
        raise TypeError(
            f"`{argument}` is a function that returns no batches. Received: {argument}={name}, "
            f"which returns {type(made).__name__}. Let it yield batches."
        )
    return made


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_arrays(data: Any) -> bool:
    """Return whether `data` is arrays, not an iterable of batches."""
    leaves = _leaves(data) if isinstance(data, (tuple, Mapping)) else [data]
    return bool(leaves) and all(leaf is None or _is_array(leaf) for leaf in leaves)


def arrays_of(data: Any, argument: str) -> Any:
    """Return arrays `(x, y)` or `(x, y, sample_weight)` without a last `None` and without lists.

    Labels may be a list of numbers, as for `keras.Model.fit`. Other data stays as it is.

    Args:
        data: Any data.
        argument: The name under which the user gave it.

    Raises:
        ValueError: If the arrays have different lengths.
    """
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return data
    leaves = _leaves(data[0])
    if not leaves or not all(map(_is_array, leaves)):
        return data
    parts = [data[0], *map(_without_lists, data[1:])]
    while parts[-1] is None:
        parts.pop()
    if is_arrays(tuple(parts)):
        _length(parts, argument)
    return tuple(parts)


def _without_lists(labels: Any) -> Any:
    """Return labels with arrays in place of lists of numbers."""
    if isinstance(labels, Mapping):
        return {name: _without_lists(part) for name, part in labels.items()}
    if not isinstance(labels, list):
        return labels
    numbers = _leaves(labels)
    if numbers and all(isinstance(number, (int, float, np.generic)) for number in numbers):
        return np.asarray(labels)
    return [_without_lists(part) for part in labels]


def _length(arrays: Any, argument: str) -> int:
    lengths = {len(leaf) for leaf in _leaves(arrays) if np.ndim(leaf)}
    if len(lengths) != 1:
        raise ValueError(
            f"`{argument}` gives arrays of different lengths: {sorted(lengths)}. "
            "Give as many labels as samples."
        )
    return lengths.pop()


def _leaves(structure: Any) -> list[Any]:
    if structure is None:
        return []
    if isinstance(structure, Mapping):
        return [leaf for value in structure.values() for leaf in _leaves(value)]
    if isinstance(structure, (tuple, list)) and not hasattr(structure, "shape"):
        return [leaf for value in structure for leaf in _leaves(value)]
    return [structure]


def _map(structure: Any, function: Any) -> Any:
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {key: _map(value, function) for key, value in structure.items()}
    if isinstance(structure, (tuple, list)):
        parts = [_map(value, function) for value in structure]
        return TaughtInputs(*parts) if isinstance(structure, TaughtInputs) else tuple(parts)
    return function(structure)


def _split(element: Any, inputs: Sequence[Input]) -> tuple[Any, Any, Any]:
    """Separate `x`, `y` and the sample weights; of `TaughtInputs`, what the model receives."""
    if isinstance(element, TaughtInputs):
        return element.inputs, None, None
    if isinstance(element, tuple) and element and isinstance(element[0], TaughtInputs):
        x, y, weight, *_ = (*element, None, None)
        return x.inputs, y, weight
    if not isinstance(element, tuple) or not element:
        return element, None, None
    several = len(inputs) > 1
    if several and not isinstance(element[0], (tuple, list, Mapping)):
        return element, None, None  # the inputs themselves, without labels
    x, y, weight, *_ = (*element, None, None)
    return x, y, weight


def _by_name(x: Any, inputs: Sequence[Input], argument: str) -> dict[str, Any]:
    expected = "; ".join(str(i) for i in inputs)
    if isinstance(x, Mapping):
        given = {safe_name(str(name)): value for name, value in x.items()}
        missing = [i.name for i in inputs if i.name not in given]
        if missing:
            raise ValueError(
                f"`{argument}` gives no value for the input(s) {missing}. "
                f"Given: {sorted(given)}; expected: {expected}."
            )
        return given
    values = list(x) if isinstance(x, (tuple, list)) and not hasattr(x, "shape") else [x]
    if len(values) != len(inputs):
        raise ValueError(
            f"`{argument}` gives {len(values)} input(s) and the model has {len(inputs)}: "
            f"{expected}."
        )
    return {i.name: value for i, value in zip(inputs, values, strict=True)}


def _as_array(value: Any, target: Input, argument: str) -> np.ndarray:
    array = np.asarray(value)
    wanted = target.shape
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"`{argument}` gives values of type {array.dtype} where the model has the input "
            f"{target}. Give numbers."
        )
    fits = array.ndim == len(wanted) and all(
        size is None or size == given
        for size, given in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{argument}` gives a batch of shape {array.shape} where the model has the input "
            f"{target}."
        )
    if target.dtype.kind in "iub" and array.dtype != target.dtype:
        with np.errstate(invalid="ignore"):
            whole = array.astype(target.dtype)
        if not np.array_equal(whole, array):
            kind = "boolean" if target.dtype.kind == "b" else "integer"
            raise TypeError(
                f"`{argument}` gives fractions, or numbers that are too large or too small, where "
                f"the model has the {kind} input {target}. Received: numbers from {array.min()} "
                f"to {array.max()}."
            )
        array = whole
    return np.ascontiguousarray(array.astype(target.dtype, copy=False))


def select_arrays(data: Any, count: int, argument: str, others: int = 0) -> Any:
    """Take `count` samples of arrays at even distances, so that data sorted by class is covered.

    Args:
        data: Arrays, for which `is_arrays` holds.
        count: Number of samples, fewer if the data has fewer.
        argument: The name of `data` in error messages.
        others: How many of the other samples follow, at even distances, too. Defaults to `0`.

    Returns:
        The same structure of arrays.
    """
    length = _length(data, argument)
    if not length:
        return data

    def spread(positions: np.ndarray, count: int) -> np.ndarray:
        count = min(count, len(positions))
        return positions[np.linspace(0, len(positions) - 1, count).astype(int)]

    chosen = np.unique(spread(np.arange(length), count))
    rest = spread(np.setdiff1d(np.arange(length), chosen), others)
    chosen = np.concatenate([chosen, rest])
    return _map(data, lambda leaf: np.asarray(leaf)[chosen])


def is_endless(data: Any) -> bool:
    """Return whether a dataset is known to have no end."""
    import tensorflow as tf

    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    if not isinstance(data, tf.data.Dataset):
        return False
    return bool(data.cardinality() == tf.data.INFINITE_CARDINALITY)


def check_ends(data: Any, max_samples: int | None) -> None:
    """Make sure that data has an end, or is not read to it.

    Raises:
        ValueError: If it has none and all of it was asked for.
    """
    if max_samples is None and is_endless(data):
        raise ValueError(
            "`data` never ends (it repeats without a count). Remove `.repeat()`, or give "
            "`max_samples`."
        )


def check_repeats(data: Any, argument: str) -> None:
    """Make sure that data can be read more than once.

    Args:
        data: Any data.
        argument: The name under which the user gave it.

    Raises:
        ValueError: If it is an iterator, which is empty after the first pass.
    """
    if isinstance(data, Iterator):
        raise ValueError(
            f"`{argument}` is needed several times and can be read only once. Received: "
            f"{type(data).__name__}. Pass arrays, a tf.data.Dataset, or a function without "
            "arguments that returns it."
        )


def _first_samples(batch: Batch, count: int) -> Batch:
    """Return the first `count` samples of a batch."""
    if batch.size <= count:
        return batch

    def cut(structure: Any) -> Any:
        return keras.tree.map_structure(
            lambda leaf: np.asarray(leaf)[:count], structure, none_is_leaf=False
        )

    inputs = {name: array[:count] for name, array in batch.inputs.items()}
    return Batch(inputs, cut(batch.x), cut(batch.y), count, cut(batch.sample_weight))


def joined(rows: Sequence[tuple[Batch, int]]) -> Batch:
    """Return single samples of several batches as one batch.

    Args:
        rows: Batches with the number of a sample in each. All inputs have the same sizes.

    Returns:
        A `Batch` whose `x` are the inputs by name; without labels or weights that are not given for
        every sample.
    """

    def join(*leaves: Any) -> np.ndarray:
        picked = zip(leaves, rows, strict=True)
        return np.stack([np.asarray(leaf)[row] for leaf, (_, row) in picked])

    def join_all(structures: list[Any]) -> Any:
        for structure, (batch, _) in zip(structures, rows, strict=True):
            if any(np.shape(leaf)[:1] != (batch.size,) for leaf in _leaves(structure)):
                return None
        return keras.tree.map_structure(join, *structures, none_is_leaf=False)

    inputs = join_all([batch.inputs for batch, _ in rows])
    y = join_all([batch.y for batch, _ in rows])
    return Batch(inputs, inputs, y, len(rows), join_all([b.sample_weight for b, _ in rows]))


def _limited(batches: Iterable[Batch], max_samples: int) -> Iterator[Batch]:
    """Hand out batches until they have given `max_samples` samples."""
    left = max_samples
    for batch in batches:
        batch = _first_samples(batch, left)
        yield batch
        left -= batch.size
        if not left:
            return


def with_progress(batches: Iterable[Batch], title: str, verbose: bool) -> Iterator[Batch]:
    """Hand out batches; on a terminal, a bar counts the samples of what takes some seconds."""
    from tqdm import tqdm

    with tqdm(
        desc=title, unit=" samples", delay=_PATIENCE, leave=False, disable=None if verbose else True
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.size)
