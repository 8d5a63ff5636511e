"""Keras metrics which read all outputs of a file together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.measuring.metrics import numbered


class JointMetrics:
    """Metrics of all outputs together, such as the mean average precision of a detector.

    Args:
        metrics: `keras.metrics.Metric`s, whose `update_state(y, outputs)` receives the labels as
            the data gives them and the outputs, a dict of arrays by name. They are reset.

    Raises:
        ValueError: If one is something else, or two have the same name.
    """

    def __init__(self, metrics: Any) -> None:
        several = isinstance(metrics, (list, tuple))
        if not several or not all(isinstance(m, keras.metrics.Metric) for m in metrics):
            raise ValueError(
                "`joint_metrics` must be a list of `keras.metrics.Metric`s, whose "
                f"`update_state(y, outputs)` takes a dict of all outputs. Received: {metrics!r}. "
                "Metrics of one output belong into `metrics`."
            )
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise ValueError(
                f"`joint_metrics` must have names of their own. Received: {names}. Give each "
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
            raise ValueError(
                "`joint_metrics` were asked for, but `data` gives no labels: give (x, y)."
            )
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
