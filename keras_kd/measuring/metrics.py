"""Keras metrics on what a file answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.measuring.positions import counted_positions
from keras_kd.system.names import snake_case
from keras_kd.system.user_warning import warn_user

# Metrics of distances between numbers: who asks for these only has an output of numbers.
_OF_ERRORS = {
    "cosine_similarity", "huber", "log_cosh", "log_cosh_error", "mean_absolute_error",
    "mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error",
    "r2_score", "root_mean_squared_error",
}  # fmt: skip
# Names which Keras resolves by the shapes of labels and outputs.
_BY_SHAPE = ("accuracy", "acc", "crossentropy", "ce")
# What a metric holds that compares probabilities with thresholds.
_THRESHOLDS = ("threshold", "thresholds", "num_thresholds")


class FileMetrics:
    """Keras metrics over the outputs of a file.

    They are given as to `keras.Model.compile` and mean the same: strings are resolved by the shapes
    of labels and outputs, `weighted_metrics` use the sample weights and `metrics` do not. Metrics
    that hold values are reset.

    Args:
        metrics: A list for a file of one output; otherwise a dict by output, or a list of lists.
        weighted_metrics: The same.
        output_names: The file's outputs, as they may be named in a dict.
        shapes: Their shapes, batch first.
    """

    def __init__(
        self,
        metrics: Any,
        weighted_metrics: Any,
        output_names: Sequence[str],
        shapes: Sequence[tuple[int | None, ...]],
    ) -> None:
        self._check(metrics, "metrics", output_names)
        self._check(weighted_metrics, "weighted_metrics", output_names)
        self._asked = (metrics, weighted_metrics)
        self._names = list(output_names)
        self._units = [shape[-1] if len(shape) > 1 else 1 for shape in shapes]
        # A model which returns what it is given lets Keras itself read these arguments.
        inputs = [keras.Input(shape[1:]) for shape in shapes]
        outputs = [
            keras.layers.Identity(name=name)(tensor)
            for name, tensor in zip(output_names, inputs, strict=True)
        ]
        self._model = keras.Model(inputs, outputs)
        self._model.compile(
            metrics=_named(metrics),
            weighted_metrics=_named(weighted_metrics),
            run_eagerly=True,
            jit_compile=False,
        )
        self._given = [
            [*self._of_output(metrics, i), *self._of_output(weighted_metrics, i)]
            for i in range(len(output_names))
        ]
        # Keras itself resets them from the first batch on.
        for metric in keras.tree.flatten(self._given):
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()

    @staticmethod
    def _check(metrics: Any, argument: str, names: Sequence[str]) -> None:
        if metrics is None:
            return
        if isinstance(metrics, dict):
            unknown = sorted(set(metrics) - set(names))
            if unknown:
                raise ValueError(
                    f"`{argument}` names the output(s) {unknown}; the file's outputs are {names}."
                )
        elif not isinstance(metrics, (list, tuple)):
            raise ValueError(
                f"`{argument}` must be a list, or a dict by output, as for `compile`. "
                f"Received: {metrics!r}. Write [{metrics!r}] for one metric."
            )
        elif len(names) > 1 and len(metrics) != len(names):
            raise ValueError(
                f"The file has the outputs {names}: pass `{argument}` as a dict by output, such as "
                f'{{"{names[0]}": ["accuracy"]}}. Received: {metrics!r}.'
            )

    def _of_output(self, metrics: Any, position: int) -> list[Any]:
        if isinstance(metrics, dict):
            metrics = metrics.get(self._names[position])
        elif metrics:
            nested = isinstance(metrics[0], (list, tuple, type(None)))
            metrics = metrics[position] if nested or len(self._names) > 1 else metrics
        if metrics is None:
            return []
        return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]

    def check_order(self, places: Sequence[int]) -> None:
        """Refuse lists by output where the file's outputs have another order than the model's.

        Args:
            places: The place of each output of the file among those of the model.

        Raises:
            ValueError: If metrics are given as a list, and the orders differ.
        """
        if list(places) == sorted(places):
            return
        if any(isinstance(given, (list, tuple)) for given in self._asked):
            raise ValueError(
                f"The file's outputs, {self._names}, have another order than those of the model. "
                "Pass `metrics` and `weighted_metrics` as dicts by output. Received: a list."
            )

    def result_names(self) -> set[str]:
        """Return the names of the metrics in the result."""
        several = len(self._names) > 1
        return {
            f"{output}_{name}" if several else str(name)
            for output, given in zip(self._names, self._given, strict=True)
            for metric in given
            for name in [metric if isinstance(metric, str) else getattr(metric, "name", None)]
            if name is not None
        }

    def measures_errors(self, position: int) -> bool:
        """Return whether all metrics of an output are of errors, as the mean absolute one is."""
        given = self._given[position]
        return bool(given) and all(is_of_errors(metric) for metric in given)

    def warn_of_logits(self, position: int) -> None:
        """Warn of metrics by name that compare an output with thresholds, where it is logits."""
        one_unit = self._units[position] == 1
        named = [metric for metric in self._given[position] if isinstance(metric, str)]
        if misread := [metric for metric in named if _has_thresholds(metric, one_unit)]:
            warn_user(
                f"The output '{self._names[position]}' gives logits, and {misread} of `metrics` "
                "compare them with thresholds between 0 and 1. Pass "
                "`keras.metrics.AUC(from_logits=True)`, or a metric with `thresholds=0.0`."
            )

    def add(
        self,
        labels: Sequence[np.ndarray | None],
        outputs: Sequence[np.ndarray],
        weights: Sequence[np.ndarray | None],
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        """Add a batch: labels, outputs, sample weights and masks of every output of the file.

        Where a mask or weights of 0 leave positions out, metrics receive the others alone.
        """
        expected = []
        for name, given, y, output in zip(self._names, self._given, labels, outputs, strict=True):
            if given and y is None:
                raise ValueError(
                    f"Metrics were asked for, but `data` gives no labels for the output '{name}'. "
                    "Pass (x, y)."
                )
            # Outputs without metrics need no labels, but Keras wants one entry for each.
            expected.append(output if y is None else y)
        shapes = [(y.shape, o.shape) for y, o in zip(expected, outputs, strict=True)]
        try:
            every = zip(expected, outputs, weights, masks or [None] * len(outputs), strict=True)
            parts = [_counted(*of_output) for of_output in every]
            if not any(len(output) for _, output, _ in parts):
                return  # every position is left out
            true = [y for y, _, _ in parts]
            predicted = [output for _, output, _ in parts]
            sample_weight = None
            if any(weight is not None for weight in weights):
                sample_weight = [
                    np.ones(len(o), np.float32) if w is None else w.astype(np.float32)
                    for _, o, w in parts
                ]
            self._model.compute_metrics(None, *map(_one_or_all, (true, predicted, sample_weight)))
        except Exception as error:
            raise ValueError(
                f"Keras could not compute the metrics; shapes of labels and outputs: {shapes}. "
                f"{error}"
            ) from error

    def result(self) -> dict[str, float]:
        """Return the values by the names Keras gives them.

        A metric of several values, as an F1 score of every class, is numbered: `f1_score_0`, ...
        """
        values = self._model.get_metrics_result()
        values.pop("loss", None)  # Keras's own entry, of a model without a loss
        return numbered(values)


def _one_or_all(values: list[np.ndarray] | None) -> Any:
    return values[0] if values and len(values) == 1 else values


def _counted(
    y: np.ndarray, output: np.ndarray, weight: np.ndarray | None, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return labels, output and weights at the positions that count, which become one axis."""
    counted = counted_positions(output, mask, weight)
    if counted is None or y.shape[: counted.ndim] != counted.shape:
        return y, output, weight
    if weight is not None:
        axes = (1,) * (counted.ndim - weight.ndim)
        shape = counted.shape + weight.shape[counted.ndim :]
        weight = np.broadcast_to(weight.reshape(weight.shape + axes), shape)[counted]
    return y[counted], output[counted], weight


def numbered(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of metrics as floats, those of arrays as `f1_score_0`, `f1_score_1`, ..."""
    found: dict[str, float] = {}
    for name, value in values.items():
        array = np.asarray(value, np.float64)
        if array.ndim == 0:
            found[name] = float(array)
        else:
            found.update({f"{name}_{i}": float(v) for i, v in enumerate(array.ravel())})
    return found


def _named(metrics: Any) -> Any:
    """Make metrics of names which Keras would number: the second "auc" is `auc_1` to it."""
    if isinstance(metrics, dict):
        return {key: _named(value) for key, value in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [_named(value) for value in metrics]
    if not isinstance(metrics, str) or metrics.lower() in _BY_SHAPE:
        return metrics
    try:
        found = keras.metrics.get(metrics)
    except ValueError:
        return metrics
    if not isinstance(found, keras.metrics.Metric):
        return metrics
    return type(found).from_config({**found.get_config(), "name": metrics})


def _has_thresholds(name: str, one_unit: bool) -> bool:
    if name.lower() in ("accuracy", "acc"):
        return one_unit  # else it compares units with each other
    try:
        found = keras.metrics.get(name)
    except ValueError:
        return False
    return any(getattr(found, attribute, None) is not None for attribute in _THRESHOLDS)


def is_of_errors(metric: Any) -> bool:
    """Whether a metric or loss of Keras is of distances between numbers."""
    return _name(metric) in _OF_ERRORS


def _name(metric: Any) -> str:
    try:
        found = keras.metrics.get(metric) if isinstance(metric, str) else metric
    except ValueError:
        return ""  # "accuracy", "ce": Keras resolves them by shapes
    if found is None:
        return ""
    kind = found if inspect.isclass(found) or inspect.isfunction(found) else type(found)
    return snake_case(kind.__name__)
