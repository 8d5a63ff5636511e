"""What a TFLite file does: its accuracy, its agreement with the model, its size and its speed."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_kd.export.batches import Batch, iterate, safe_name
from keras_kd.export.benchmark import measure
from keras_kd.export.origin import origin
from keras_kd.export.saved_model import name_outputs
from keras_kd.export.sizes import file_size, zipped_size
from keras_kd.litert.runtime import LiteRuntime


@dataclasses.dataclass(frozen=True)
class TFLiteResult:
    """What `evaluate_tflite` measured of one file.

    Attributes:
        path: The file.
        samples: How many samples were run.
        output: Name of the output which the figures are about.
        accuracy: Share of right answers, or `None` for data without labels.
        agreement: Share of samples (positions, for dense prediction) for which the file and the
            Keras model give the same answer, or `None` without a model.
        max_difference: Largest absolute difference between the outputs of the two, or `None`.
        mean_difference: Mean absolute difference between the outputs of the two, or `None`.
        bytes: Size of the file.
        zipped_bytes: Size of a zip archive with the file in it.
        latency_ms: Median latency of a run at batch `latency_batch`, in milliseconds.
        latency_p90_ms: 90th percentile of the same.
        latency_runs: How many runs were timed, after warm-up.
        latency_batch: Batch size of these runs: 1, or the one which the file fixes.
        threads: Number of threads.
        delegate: What ran the operators.
        operators: How often each operator occurs.
        float_operators: How often each operator occurs which computes in floating point.
        inputs: Name, shape, dtype, scale and zero point of every input.
        outputs: The same of every output.
        tensor_types: How many tensors there are of each type.
        constants: How many numbers (weights, biases, tables) the file stores.
        zero_constants: How many of them are zero.
        constant_types: How many of them are of each type.
        sparse_tensors: How many tensors are stored in a sparse encoding.
    """

    path: str
    samples: int
    output: str
    accuracy: float | None
    agreement: float | None
    max_difference: float | None
    mean_difference: float | None
    bytes: int
    zipped_bytes: int
    latency_ms: float
    latency_p90_ms: float
    latency_runs: int
    latency_batch: int
    threads: int
    delegate: str
    operators: dict[str, int]
    float_operators: dict[str, int]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    tensor_types: dict[str, int]
    constants: int
    zero_constants: int
    constant_types: dict[str, int]
    sparse_tensors: int

    @property
    def sparsity(self) -> float:
        """Share of zeros among the stored numbers."""
        return self.zero_constants / self.constants if self.constants else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes, and `sparsity`, as a dict which `json.dumps` accepts."""
        return {**dataclasses.asdict(self), "sparsity": self.sparsity}

    def __str__(self) -> str:
        """Return a few readable lines."""
        lines = [self.path]
        if self.accuracy is not None:
            lines.append(f"accuracy        {self.accuracy:.2%} of {self.samples:,} samples")
        if self.agreement is not None:
            lines.append(
                f"agreement       {self.agreement:.2%} with the Keras model "
                f"(outputs differ by {self.mean_difference:.2g}, at most {self.max_difference:.2g})"
            )
        lines.append(f"size            {self.bytes:,} bytes, {self.zipped_bytes:,} zipped")
        lines.append(
            f"latency         {self.latency_ms:.3g} ms (median of {self.latency_runs}; 90 % within "
            f"{self.latency_p90_ms:.3g} ms; batch {self.latency_batch}, "
            f"threads: {self.threads}, delegate: {self.delegate})"
        )
        lines.append(f"constants       {self.constants:,}, {self.sparsity:.1%} of them zero")
        operators = ", ".join(f"{name} x{n}" for name, n in self.operators.items())
        lines.append(f"operators       {operators}")
        return "\n".join(lines)


def evaluate_tflite(
    path: str | os.PathLike[str],
    data: Any,
    model: Any = None,
    *,
    output: int | str = 0,
    from_logits: bool | None = None,
    batch_size: int = 32,
    max_samples: int | None = None,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 10,
) -> TFLiteResult:
    """Run a TFLite file in LiteRT and measure it.

    Args:
        path: The file.
        data: A `tf.data.Dataset` or another iterable of `x`, `(x, y)` or `(x, y, sample_weight)`
            elements, or such arrays. With several inputs, `x` is a dict by input name or a tuple in
            the model's order. Labels are class indices, of shape `[batch, ...]` or
            `[batch, ..., 1]`, or one-hot (or soft), of the output's shape `[batch, ..., classes]`;
            for an output of one unit they are 0 or 1. With several outputs, `y` may be a dict or a
            tuple by output. Without `y`, accuracy is `None`. Sample weights are not used.
        model: The model which the file was made from (a Keras or a compressed model), to measure
            their agreement. Defaults to `None`: the model that this process exported to `path`,
            if neither has changed since.
        output: Which output the accuracy and the agreement are about, by name or by position.
            Defaults to `0`.
        from_logits: Whether an output of one unit is a logit (the answer is 1 above 0) or a
            probability (above 0.5). Defaults to what the file's last operator says: a sigmoid gives
            probabilities. More units are compared by their largest value either way.
        batch_size: Batch size for arrays and data sets which are not batched. Defaults to `32`.
        max_samples: Stop after so many samples. Defaults to all.
        threads: Number of threads. Defaults to `1`.
        runs: How many runs are timed, at batch 1, on the first sample. Defaults to `50`.
        warmup: How many runs go before them. Defaults to `10`.

    Returns:
        A `TFLiteResult`.

    Raises:
        OSError: If there is no file at `path`.
        ValueError: If it is damaged or not a TFLite file, or if the data is empty or does not fit
            (shape, number of inputs, labels out of range).
        TypeError: If the data is of a type which the inputs do not take.

    Example:

    ```python
    result = evaluate_tflite("exports/student.tflite", test, model=student)
    print(result)
    ```
    """
    for name, value in (("batch_size", batch_size), ("runs", runs), ("max_samples", max_samples)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {value!r}.")
    _check_finite_data(data, max_samples)
    runtime = LiteRuntime(path, threads)
    position = _output_position(runtime, output)
    if from_logits is None:
        from_logits = runtime.file.output_operator(position) != "LOGISTIC"
    scores = _Scores(runtime.output_names, position, 0.0 if from_logits else 0.5)
    model = origin(path) if model is None else model
    answer = None if model is None else _reference(model, runtime, position)
    first: dict[str, np.ndarray] | None = None
    for batch in iterate(data, runtime.inputs, batch_size, "data"):
        if max_samples is not None:
            batch = _first(batch, max_samples - scores.samples)
        if first is None:
            first = {name: array[:1] for name, array in batch.inputs.items()}
        outputs = runtime.predict(batch.inputs)
        reference = None if answer is None else answer(batch.x)
        scores.add(batch, outputs[runtime.output_names[position]], reference)
        if scores.samples == max_samples:
            break
    if first is None:
        raise ValueError("`data` is empty. Give at least one batch.")
    if scores.not_finite:
        warnings.warn(
            f"'{runtime.path}' gives NaN or infinite outputs for {scores.not_finite} samples.",
            stacklevel=2,
        )
    fixed = runtime.inputs[0].shape[0] if runtime.inputs[0].shape else None
    latency = measure(
        [runtime],
        runs,
        warmup,
        {name: np.repeat(array, fixed or 1, axis=0) for name, array in first.items()},
    )[0]
    constants = runtime.file.constants()
    inputs, outputs_described = runtime.describe_tensors()
    floats: dict[str, int] = {}
    for operator in runtime.file.float_operators():
        floats[operator.name] = floats.get(operator.name, 0) + 1
    return TFLiteResult(
        path=os.fspath(path),
        samples=scores.samples,
        output=runtime.output_names[position],
        accuracy=scores.accuracy,
        agreement=scores.agreement,
        max_difference=scores.max_difference,
        mean_difference=scores.mean_difference,
        bytes=file_size(path),
        zipped_bytes=zipped_size(path),
        latency_ms=latency["median_ms"],
        latency_p90_ms=latency["p90_ms"],
        latency_runs=runs,
        latency_batch=latency["batch"],
        threads=threads,
        delegate=latency["delegate"],
        operators=runtime.file.operator_counts(),
        float_operators=floats,
        inputs=inputs,
        outputs=outputs_described,
        tensor_types=runtime.file.tensor_types(),
        constants=constants.elements,
        zero_constants=constants.zeros,
        constant_types=constants.types,
        sparse_tensors=constants.sparse_tensors,
    )


def _check_finite_data(data: Any, max_samples: int | None) -> None:
    import tensorflow as tf

    if max_samples is not None or not isinstance(data, tf.data.Dataset):
        return
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` never ends (it repeats without a count). Remove `.repeat()`, or give "
            "`max_samples`."
        )


def _first(batch: Batch, count: int) -> Batch:
    if batch.size <= count:
        return batch

    def cut(structure: Any) -> Any:
        return keras.tree.map_structure(
            lambda leaf: np.asarray(leaf)[:count], structure, none_is_leaf=False
        )

    inputs = {name: array[:count] for name, array in batch.inputs.items()}
    return Batch(inputs, cut(batch.x), cut(batch.y), count)


def _output_position(runtime: LiteRuntime, output: int | str) -> int:
    names = runtime.output_names
    if isinstance(output, str):
        if safe_name(output) in names:
            return names.index(safe_name(output))
        if output in names:
            return names.index(output)
    elif isinstance(output, int) and 0 <= output < len(names):
        return output
    raise ValueError(f"`output` must be one of {names} or its position. Received: {output!r}.")


def _reference(model: Any, runtime: LiteRuntime, position: int) -> Callable[[Any], np.ndarray]:
    """Return a function which gives the model's answer for the output at `position`."""
    import tensorflow as tf

    if isinstance(model, keras.Model) or hasattr(model, "predict_on_batch"):
        run = partial(model, training=False)
    elif callable(model) and hasattr(model, "predict"):
        run = model
    else:
        raise TypeError(
            f"`model` must be a Keras model or a compressed one. Received: {type(model).__name__}."
        )
    wanted = runtime.output_names[position]
    compiled = tf.function(run, autograph=False, reduce_retracing=True)

    def answer(x: Any) -> np.ndarray:
        named = name_outputs(getattr(model, "model", model), compiled(_tensors(x)))
        by_name = {safe_name(name): tensor for name, tensor in named.items()}
        if len(by_name) != len(runtime.output_names):
            raise ValueError(
                f"`model` has {len(by_name)} output(s) and '{runtime.path}' has "
                f"{len(runtime.output_names)}: the file was not made from this model."
            )
        chosen = by_name[wanted] if wanted in by_name else list(named.values())[position]
        return np.asarray(tf.cast(chosen, tf.float32))

    return answer


def _tensors(x: Any) -> Any:
    return keras.tree.map_structure(keras.ops.convert_to_tensor, x)


class _Scores:
    """Sums over batches of what is right, what agrees and what differs.

    Args:
        output_names: The file's outputs.
        position: Which of them is scored.
        threshold: Where the answer of a one-unit output changes from 0 to 1.
    """

    def __init__(self, output_names: list[str], position: int, threshold: float) -> None:
        self._names = output_names
        self._position = position
        self._threshold = threshold
        self._right = self._labelled = 0
        self._same = self._compared = 0
        self._difference_sum = 0.0
        self._difference_count = 0
        self._largest: float | None = None
        self.samples = 0
        self.not_finite = 0

    def add(self, batch: Batch, output: np.ndarray, reference: np.ndarray | None) -> None:
        self.samples += batch.size
        finite = np.isfinite(output.reshape(len(output), -1)).all(axis=1)
        self.not_finite += int(np.sum(~finite))
        answers = self._answers(output)
        labels = self._labels(batch.y)
        if labels is not None:
            indices = self._class_indices(labels, output)
            self._right += int(np.sum(indices == answers))
            self._labelled += indices.size
        if reference is not None:
            if reference.shape != output.shape:
                raise ValueError(
                    f"`model` gives an output of shape {reference.shape} where the file gives "
                    f"{output.shape}: the file was not made from this model."
                )
            same = self._answers(reference) == answers
            self._same += int(np.sum(same))
            self._compared += same.size
            difference = np.abs(reference.astype(np.float64) - output)
            self._difference_sum += float(np.sum(difference))
            self._difference_count += difference.size
            self._largest = max(self._largest or 0.0, float(np.max(difference)))

    def _answers(self, output: np.ndarray) -> np.ndarray:
        if output.ndim < 2:
            return output > self._threshold
        if output.shape[-1] == 1:
            return output[..., 0] > self._threshold
        return np.argmax(output, axis=-1)

    def _labels(self, y: Any) -> np.ndarray | None:
        if isinstance(y, Mapping):
            name = self._names[self._position]
            named = {safe_name(str(key)): value for key, value in y.items()}
            if name not in named:
                raise ValueError(f"`data` gives labels for {sorted(named)}, but not for '{name}'.")
            y = named[name]
        elif isinstance(y, (tuple, list)) and not hasattr(y, "shape"):
            if len(y) != len(self._names):
                raise ValueError(
                    f"`data` gives {len(y)} arrays of labels and the file has {len(self._names)} "
                    "outputs."
                )
            y = y[self._position]
        return None if y is None else np.asarray(y)

    def _class_indices(self, labels: np.ndarray, output: np.ndarray) -> np.ndarray:
        classes = output.shape[-1] if output.ndim > 1 else 1
        positions = output.shape[:-1] if output.ndim > 1 else output.shape
        if labels.dtype.kind not in "fiub":
            raise TypeError(f"`data` gives labels of type {labels.dtype}. Give class indices.")
        if labels.shape == output.shape and classes > 1:
            totals = labels.astype(np.float64).sum(axis=-1)
            if labels.min() < 0 or not np.allclose(totals, 1.0, atol=1e-3):
                raise ValueError(
                    "`data` gives labels of the output's shape which are not one-hot: they must "
                    "not be negative and must sum to 1. Accuracy is about one class a sample; "
                    "give `x` alone to leave it out."
                )
            return np.argmax(labels, axis=-1)
        if labels.shape == (*positions, 1):
            labels = labels[..., 0]
        if labels.shape != positions:
            raise ValueError(
                f"`data` gives labels of shape {labels.shape} for an output of shape "
                f"{output.shape}. Give class indices of shape {positions} or one-hot labels of "
                f"shape {output.shape}."
            )
        indices = labels.astype(np.int64)
        if not np.array_equal(indices, labels):
            raise ValueError(
                "`data` gives labels which are not whole numbers. Accuracy needs class indices; "
                "give `x` alone to leave it out."
            )
        highest = max(classes, 2) - 1
        if indices.size and (indices.min() < 0 or indices.max() > highest):
            wrong = indices[(indices < 0) | (indices > highest)].flat[0]
            raise ValueError(
                f"`data` gives the label {wrong}, which is out of range: the file's output "
                f"'{self._names[self._position]}' has {classes} unit(s), for labels 0 to {highest}."
            )
        return indices

    @property
    def accuracy(self) -> float | None:
        return self._right / self._labelled if self._labelled else None

    @property
    def agreement(self) -> float | None:
        return self._same / self._compared if self._compared else None

    @property
    def max_difference(self) -> float | None:
        return self._largest

    @property
    def mean_difference(self) -> float | None:
        if not self._difference_count:
            return None
        return self._difference_sum / self._difference_count
