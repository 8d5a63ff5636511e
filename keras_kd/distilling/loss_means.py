"""The means of several losses over an epoch, kept in one variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops


class LossMeans(keras.metrics.Metric):
    """The running means of several scalars, by name.

    One metric for each would cost a small step several times as many operations.

    Args:
        names: The names of the scalars.
        name: Name of the metric. Defaults to `"loss_means"`.
    """

    def __init__(self, names: Sequence[str], name: str = "loss_means") -> None:
        super().__init__(name=name, dtype="float32")
        self.names = list(names)
        shape = (len(self.names),)
        self.totals = self.add_variable(shape, initializer="zeros", name="totals")
        self.counts = self.add_variable(shape, initializer="zeros", name="counts")

    def update_state(self, values: Mapping[str, Any], sample_weight: Any) -> None:
        """Add the scalars of a batch; those left out do not count in it.

        Args:
            values: Scalars by name; other names are left aside.
            sample_weight: The weight of the batch, a scalar.
        """
        present = [name in values for name in self.names]
        scalars = [
            ops.cast(values[name], "float32") if here else 0.0
            for name, here in zip(self.names, present, strict=True)
        ]
        weight = ops.cast(sample_weight, "float32")
        weights = weight * ops.convert_to_tensor(present, "float32")
        self.totals.assign_add(ops.stack(scalars) * weights)
        self.counts.assign_add(weights)

    def result(self) -> dict[str, Any]:
        """Return the means by name, zero where nothing was counted."""
        means = self.totals / ops.maximum(self.counts, 1e-7)
        return dict(zip(self.names, ops.unstack(means, len(self.names)), strict=True))
