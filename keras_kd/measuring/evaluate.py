"""Measuring a TFLite file: accuracy, agreement with the model, size and latency."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.data.finite import finite_rows, is_finite
from keras_kd.data.numpy_batches import check_ends, iterate, with_progress
from keras_kd.litert.constants import count_constants
from keras_kd.litert.macs import count_macs, operator_types
from keras_kd.litert.origin import origin
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.answers import REGRESSION, by_output, check_task, places_in_tuple
from keras_kd.measuring.benchmark import measure
from keras_kd.measuring.confidence import DEFAULT_BINS
from keras_kd.measuring.device_cost import device_cost
from keras_kd.measuring.metrics import FileMetrics, numbered
from keras_kd.measuring.positions import Positions
from keras_kd.measuring.reference import Reference
from keras_kd.measuring.result import TFLiteResult
from keras_kd.measuring.scores import Scores
from keras_kd.measuring.selection import file_end, output_position
from keras_kd.measuring.sizes import file_size, zipped_size
from keras_kd.system.arguments import number
from keras_kd.system.names import suggests_arguments
from keras_kd.system.user_warning import warn_user


@suggests_arguments
def evaluate_tflite(
    path: str | os.PathLike[str],
    data: Any,
    model: Any = None,
    *,
    metrics: Any = None,
    weighted_metrics: Any = None,
    joint_metrics: Sequence[keras.metrics.Metric] | None = None,
    output: int | str = 0,
    task: str | None = None,
    from_logits: bool | None = None,
    batch_size: int = 32,
    max_samples: int | None = None,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 10,
    calibration_bins: int = DEFAULT_BINS,
    device: str | None = None,
    verbose: bool = True,
) -> TFLiteResult:
    """Run a TFLite file in LiteRT and measure it.

    Args:
        path: The file.
        data: A `tf.data.Dataset` or another iterable of `x`, `(x, y)` or `(x, y, sample_weight)`
            elements, or such arrays. With several inputs, `x` is a dict by input name or a tuple in
            the model's order. Labels are class indices, of shape `[batch, ...]` or
            `[batch, ..., 1]`, or one-hot (or soft), of the output's shape `[batch, ..., classes]`;
            for an output of one unit they are 0 or 1. Integers in an output are classes, also in a
            map of them, `[batch, height, width]`, unless the labels give one class for several.
            With several outputs, `y` may be a dict or a tuple by output; one array holds the labels
            of `output`, or the weights of all.
            Without `y`, accuracy is `None`. Sample weights are for `weighted_metrics`; all other
            figures count every sample once. Positions of a sequence or an image which the model's
            Keras mask leaves out, or whose sample weight is 0, count nowhere.
        model: The model which the file was made from (a Keras or a compressed model), to measure
            their agreement. Defaults to `None`: the model that this process exported to `path`,
            if neither has changed since.
        metrics: Keras metrics, as for `keras.Model.compile`: a list of names, functions or
            `keras.metrics.Metric`s, or with several outputs a dict by output. They read the file's
            raw outputs; where positions do not count, those that do, `[positions, units]`. Defaults
            to `None`.
        weighted_metrics: The same, for metrics which use the sample weights. Defaults to `None`.
        joint_metrics: Metrics of all outputs together, such as the mean average precision of a
            detector with classes and boxes: `keras.metrics.Metric`s, whose
            `update_state(y, outputs)` receives the `y` of the data and a dict of all outputs by
            name, with all positions. `y` may then be a dict with labels that do not belong to a
            single output. Their values are among the `metrics` of the result. Defaults to `None`.
        output: The output that accuracy, agreement and the figures per class refer to, by name or
            position. Defaults to `0`.
        task: The task of this output: `"classification"` (one class per sample or position),
            `"multilabel"` (yes or no per unit) or `"regression"`.
            Defaults to `None`: regression if all of its metrics are of errors (as `"mae"`),
            multi-label for a sigmoid whose first labels are, else classification.
        from_logits: Whether this output gives logits or probabilities: an answer of one unit is 1
            above 0 or above 0.5, and calibration takes the softmax (sigmoid) of logits. Defaults
            to what the file's last operators or the model's layers show; if they do not decide,
            to probabilities if all outputs lie between 0 and 1 and those of several units sum to
            one.
        batch_size: Batch size for arrays and datasets which are not batched. Defaults to `32`.
        max_samples: The most samples to read: of arrays those at even distances, of anything else
            the first. Defaults to `None`, all.
        threads: Number of threads. Defaults to `1`.
        runs: How many runs are timed, at batch 1, on the first sample. Defaults to `50`.
        warmup: Number of warm-up runs. Defaults to `10`.
        calibration_bins: Number of bins of the expected calibration error. Defaults to `15`.
        device: An Arm Ethos-U that `keras_kd.device_cost` estimates the file for, as
            `"ethos-u55-128"`. Defaults to `None`.
        verbose: Whether to show a progress bar for long runs. Defaults to `True`.

    Returns:
        A `TFLiteResult`.

    Raises:
        OSError: If there is no file at `path`.
        ValueError: If it is damaged or not a TFLite file, or if the data is empty or does not fit
            (shape, number of inputs, labels out of range).
        TypeError: If the data is of a type which the inputs do not take.
        ImportError: If `device` is given and Vela is not installed.

    Example:

    ```python
    result = keras_kd.evaluate_tflite("exports/student.tflite", test, model=student)
    print(result)
    ```
    """
    for name, value in (
        ("batch_size", batch_size),
        ("runs", runs),
        ("max_samples", max_samples),
        ("calibration_bins", calibration_bins),
    ):
        number(name, value, least=1, whole=True, optional=name == "max_samples")
    check_task(task)
    cost = None if device is None else device_cost(path, device)
    check_ends(data, max_samples)
    runtime = LiteRuntime(path, threads, xnnpack=None)
    names = runtime.output_names
    position = output_position(names, output)
    asked = None
    if metrics is not None or weighted_metrics is not None:
        shapes = [spec.shape for spec in runtime.output_specs()]
        asked = FileMetrics(metrics, weighted_metrics, names, shapes)
    measures_errors = asked is not None and asked.measures_errors(position)
    taken = set() if asked is None else asked.result_names()
    joint = None if joint_metrics is None else JointMetrics(joint_metrics, taken)
    model = origin(path) if model is None else model
    answer = None if model is None else Reference(model, names, position, path, runtime.file)
    end = file_end(runtime.file, position)
    scores = Scores(
        names[position],
        answer.end if end is None and answer is not None else end,
        from_logits,
        task,
        measures_errors,
        calibration_bins,
        runtime.describe_tensors()[1][position]["scale"] or 0.0,
    )
    positions = Positions(position)
    first: dict[str, np.ndarray] | None = None
    wrong_inputs = 0
    inputs = runtime.inputs if answer is None else answer.in_model_order(runtime.inputs)
    batches = iterate(data, inputs, batch_size, "data", max_samples)
    for batch in with_progress(batches, "Evaluating", verbose):
        if first is None:
            first = {name: array[:1] for name, array in batch.inputs.items()}
        outputs = runtime.predict(batch.inputs)
        wrong_inputs += _rows_not_finite(batch.inputs)
        reference, masks = (None, None) if answer is None else answer(batch.x)
        places = places_in_tuple(names) if answer is None else answer.places
        labels = by_output(
            batch.y, names, "labels", others=joint is not None, alone=position, places=places
        )
        # As in Keras, weights that are one array are those of every output.
        weights = by_output(
            batch.sample_weight,
            names,
            "sample weights",
            others=asked is None,
            alone=None,
            places=places,
        )
        if asked is not None:
            asked.check_order(places)
            asked.add(labels, [outputs[name] for name in names], weights, masks)
        if joint is not None:
            joint.add(batch.y, outputs)
        output_of_batch = outputs[names[position]]
        counted = positions.counted(batch, output_of_batch, masks, weights)
        scores.add(output_of_batch, labels[position], reference, counted)
    if first is None:
        raise ValueError("`data` is empty. Pass at least one batch.")
    if wrong_inputs and not scores.not_finite:
        warn_user(
            f"`data` holds NaN or infinite inputs in {wrong_inputs} samples, for which the file "
            "gives numbers as if they were valid. Remove such samples."
        )
    scores.warn_of_not_finite(runtime.path)
    if asked is not None and scores.from_logits and scores.task != REGRESSION:
        asked.warn_of_logits(position)
    positions.warn_of_padding(scores.accuracy is not None or scores.agreement is not None)
    values = {}
    for part in (asked, joint):
        values.update({} if part is None else part.result())
    result = _result(runtime, scores, values, first, runs, warmup)
    return dataclasses.replace(result, device_cost=cost)


def _rows_not_finite(inputs: Mapping[str, np.ndarray]) -> int:
    """Return how many samples of a batch have an input that is NaN or infinite."""
    wrong = [~finite_rows(array) for array in inputs.values() if not is_finite(array)]
    return int(np.any(wrong, axis=0).sum()) if wrong else 0


def _result(
    runtime: LiteRuntime,
    scores: Scores,
    metrics: dict[str, float],
    first: dict[str, np.ndarray],
    runs: int,
    warmup: int,
) -> TFLiteResult:
    size = runtime.batch or 1
    sample = {name: np.repeat(array, size, axis=0) for name, array in first.items()}
    latency = measure([runtime], runs, warmup, sample)[0]
    plain, without = runtime, None
    if runtime.xnnpack:
        plain = LiteRuntime(runtime.path, runtime.threads, xnnpack=False)
        without = measure([plain], runs, warmup, sample)[0].latency_ms
    # Only without a delegate does LiteRT know the shapes which the sample gave to all tensors.
    macs = count_macs(plain.file, plain.tensor_shape)
    constants = count_constants(runtime.file)
    inputs, outputs = runtime.describe_tensors()
    floats: dict[str, int] = {}
    for operator in runtime.file.float_operators():
        floats[operator.name] = floats.get(operator.name, 0) + 1
    return TFLiteResult(
        path=os.fspath(runtime.path),
        samples=scores.samples,
        output=scores.name,
        task=scores.task or "",
        accuracy=scores.accuracy,
        model_accuracy=scores.model_accuracy,
        agreement=scores.agreement,
        max_difference=scores.differences.largest,
        mean_difference=scores.differences.mean,
        metrics=metrics,
        per_class=None if scores.counts is None else scores.counts.per_class(),
        confusion=None if scores.counts is None else scores.counts.confusion(),
        calibration=scores.calibration.result(),
        bytes=file_size(runtime.path),
        zipped_bytes=zipped_size(runtime.path),
        latency_ms=latency.latency_ms,
        latency_p90_ms=latency.latency_p90_ms,
        latency_p99_ms=latency.latency_p99_ms,
        latency_without_xnnpack_ms=without,
        latency_runs=latency.latency_runs,
        latency_batch=latency.latency_batch,
        threads=runtime.threads,
        delegate=latency.delegate,
        loads_with_xnnpack=runtime.probed.loads_with_xnnpack,
        xnnpack_error=runtime.probed.xnnpack_error,
        peak_memory_bytes=runtime.probed.peak_memory_bytes,
        operators=runtime.file.operator_counts(),
        operator_types=operator_types(runtime.file),
        float_operators=floats,
        inputs=inputs,
        outputs=outputs,
        tensor_types=runtime.file.tensor_types(),
        parameters=constants.parameters,
        macs=macs.total // size,
        macs_not_counted=macs.not_counted,
        constants=constants.elements,
        zero_constants=constants.zeros,
        constant_types=constants.types,
        sparse_tensors=constants.sparse_tensors,
    )


class JointMetrics:
    """Metrics of all outputs together, such as the mean average precision of a detector.

    Args:
        metrics: `keras.metrics.Metric`s, whose `update_state(y, outputs)` receives the labels as
            the data gives them and the outputs, a dict of arrays by name. They are reset.
        taken: Names of other metrics.

    Raises:
        ValueError: If one is something else, or has the name of another one.
    """

    def __init__(self, metrics: Any, taken: Collection[str] = ()) -> None:
        several = isinstance(metrics, (list, tuple))
        if not several or not all(isinstance(m, keras.metrics.Metric) for m in metrics):
            raise ValueError(
                "`joint_metrics` must be a list of `keras.metrics.Metric`s, whose "
                f"`update_state(y, outputs)` takes a dict of all outputs. Received: {metrics!r}. "
                "Metrics of one output belong in `metrics`."
            )
        names = [metric.name for metric in metrics]
        if len({*names, *taken}) < len(names) + len(taken):
            others = f", beside {sorted(taken)} of the other metrics" if taken else ""
            raise ValueError(
                f"`joint_metrics` must have unique names. Received: {names}{others}. Give each "
                "metric a `name`."
            )
        self._metrics: Sequence[keras.metrics.Metric] = metrics
        for metric in metrics:
            metric.reset_state()

    def add(self, y: Any, outputs: Mapping[str, np.ndarray]) -> None:
        """Add a batch.

        Args:
            y: Its labels, as the data gives them.
            outputs: All outputs of the file by name.

        Raises:
            ValueError: If there are no labels, or a metric fails.
        """
        if y is None:
            raise ValueError("`joint_metrics` need labels, but `data` has none. Pass (x, y).")
        for metric in self._metrics:
            try:
                metric.update_state(y, dict(outputs))
            except Exception as error:
                labels = keras.tree.map_structure(np.shape, y)
                shapes = {name: output.shape for name, output in outputs.items()}
                raise ValueError(
                    f"The metric '{metric.name}' could not be computed; shapes of the labels: "
                    f"{labels}, of the outputs: {shapes}. {type(error).__name__}: {error}"
                ) from error

    def result(self) -> dict[str, float]:
        """Return the values by the names of the metrics.

        Several values of one metric are numbered, `map_0`, or stand by their own names if it
        returns a dict, as those of `keras.Model.evaluate` do.
        """
        values: dict[str, Any] = {}
        for metric in self._metrics:
            value = metric.result()
            values.update(value if isinstance(value, Mapping) else {metric.name: value})
        return numbered(values)
