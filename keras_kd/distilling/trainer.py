"""DistributedModel: what `keras.Model.fit` lacks under strategies of several workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def has_several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Return whether `strategy` trains in several processes at once."""
    return isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ) and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


class DistributedModel(keras.Model):
    """A model whose `fit` and `evaluate` run under every synchronous strategy of TensorFlow.

    Under `tf.distribute.MultiWorkerMirroredStrategy` those of `keras.Model` fail (Keras 3.15): on
    the first batch, which they average over the workers to learn its shape, and on the logs, which
    they average along an axis that scalars do not have. The logs of an epoch are here always the
    metrics of all replicas, also where a step returns a part of them.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None and self._distribute_strategy is not None:
            for _, _, batches in iterator:
                data_batch = keras.tree.map_structure(self._of_one_replica, next(batches))
                break
        super()._maybe_symbolic_build(data_batch=data_batch)

    def _of_one_replica(self, value: Any) -> Any:
        return self.distribute_strategy.experimental_local_results(value)[0]

    def _make_function(self, step_function: Callable[[Any], Any]) -> Any:
        if not has_several_workers(self.distribute_strategy):
            return super()._make_function(step_function)

        @tf.autograph.experimental.do_not_convert
        def step(data: Any) -> Any:
            return keras.tree.map_structure(
                lambda value: tf.expand_dims(value, 0), step_function(data)
            )

        return super()._make_function(step)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        if not isinstance(logs, dict):
            return logs
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}
