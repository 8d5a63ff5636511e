"""How much a channel or a block matters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.blocks import Block
from keras_kd.compression.shrinking.channel_groups import Groups

IMPORTANCES = ("l1", "batch_norm", "taylor")
REDUCTIONS = ("mean", "sum")


class Importance:
    """Scores of the channels along the axes of weights.

    `"l1"` is the sum of the magnitudes of a channel's weights, in the kernels that make it and in
    those that take it (Li et al. 2017). `"batch_norm"` is the magnitude of its scale in batch
    normalization (Liu et al. 2017), and `"l1"` where there is none. Both are divided by their mean
    over the layer, so that layers can be compared. `"taylor"` is the magnitude of the change of
    the loss, to first order, when the channel goes: `|sum(w * dL/dw)|` over its weights, averaged
    over batches (Molchanov et al. 2019).

    Args:
        kind: `"l1"`, `"batch_norm"` or `"taylor"`.
        taylor: What `taylor_scores` returned, for `"taylor"`. Defaults to `None`.

    References:
        Li et al., Pruning Filters for Efficient ConvNets, 2017, arXiv:1608.08710.
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017,
        arXiv:1708.06519.
        Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, arXiv:1906.10771.
    """

    def __init__(self, kind: str, taylor: TaylorScores | None = None) -> None:
        self.kind = kind
        self._taylor = taylor

    def groups(self, analysis: Analysis, groups: Groups, reduction: str) -> np.ndarray:
        """Return the importance of every group of channels.

        Args:
            analysis: The analysis of the model.
            groups: Its groups.
            reduction: `"mean"` or `"sum"` over the weights that the group meets.
        """
        size = len(groups.group)
        kinds = ("batch_norm", "l1") if self.kind == "batch_norm" else (self.kind,)
        result = np.zeros(size)
        missing = np.ones(size, dtype=bool)
        for kind in kinds:
            total, count = np.zeros(size), np.zeros(size)
            for weight in analysis.weights.values():
                for position, axis in enumerate(weight.axes):
                    scores = None if axis is None else self._scores(kind, weight.variable, position)
                    if scores is None or axis is None:
                        continue
                    numbers = groups.of(axis)
                    sums = np.bincount(numbers, scores, size).astype(np.float64)
                    met = np.bincount(numbers, minlength=size) > 0
                    if kind != "taylor":
                        sums = sums / max(float(sums[met].mean()), 1e-30)
                    total, count = total + sums, count + met
            if reduction == "mean":
                total = total / np.maximum(count, 1)
            use = missing & (count > 0)
            result[use] = total[use]
            missing &= ~use
        return result

    def block(self, block: Block) -> float:
        """Return the importance of a block.

        Returns:
            For `"taylor"` the change of the loss by all its weights; otherwise the mean magnitude
            of its kernels, or of the scales of its batch normalization.
        """
        if self._taylor is not None and self.kind == "taylor":
            return self._taylor.total(block.weights)
        scales = [
            layer.gamma
            for layer in block.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.scale
        ]
        if self.kind == "batch_norm" and scales:
            return float(np.mean([np.abs(_numpy(gamma)).mean() for gamma in scales]))
        kernels = [np.abs(_numpy(w)) for w in block.weights if len(w.shape) >= 2]
        kernels = kernels or [np.abs(_numpy(w)) for w in block.weights]
        return float(sum(k.sum() for k in kernels) / sum(k.size for k in kernels))

    def _scores(self, kind: str, variable: Any, axis: int) -> np.ndarray | None:
        if kind == "taylor" and self._taylor is not None:
            return self._taylor.along(variable, axis)
        if kind == "batch_norm":
            return np.abs(_numpy(variable)) if variable.path.endswith("/gamma") else None
        if len(variable.shape) < 2:
            return None
        others = tuple(i for i in range(len(variable.shape)) if i != axis)
        return np.asarray(np.abs(_numpy(variable)).sum(axis=others, dtype=np.float64))


class TaylorScores:
    """First-order Taylor scores of the weights of a model, gathered batch by batch.

    Args:
        variables: The weights.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = list(variables)
        self._along: dict[tuple[int, int], np.ndarray] = {}
        self._totals: list[dict[int, float]] = []

    def add(self, gradients: Sequence[Any]) -> None:
        """Add a batch.

        Args:
            gradients: The gradient of each weight, `None` where the loss does not depend on it.
        """
        totals = {}
        for variable, gradient in zip(self._variables, gradients, strict=True):
            if gradient is None:
                continue
            product = _numpy(variable).astype(np.float64) * np.asarray(
                tf.convert_to_tensor(gradient)
            )
            totals[id(variable)] = float(product.sum())
            for axis in range(product.ndim):
                others = tuple(i for i in range(product.ndim) if i != axis)
                score = np.abs(product.sum(axis=others))
                key = (id(variable), axis)
                self._along[key] = self._along.get(key, 0.0) + score
        self._totals.append(totals)

    def along(self, variable: Any, axis: int) -> np.ndarray | None:
        """Return the scores of the channels along an axis of a weight, or `None`."""
        total = self._along.get((id(variable), axis))
        return None if total is None else total / len(self._totals)

    def total(self, variables: Sequence[Any]) -> float:
        """Return the score of several weights taken together."""
        sums = [abs(sum(batch.get(id(v), 0.0) for v in variables)) for batch in self._totals]
        return float(np.mean(sums))


def taylor_scores(
    model: Any, data: Any, loss: Callable[[Any, Any, Any, Any], Any], batches: int
) -> TaylorScores:
    """Run a model over some batches and score its weights.

    Args:
        model: A Keras 3 model.
        data: Batches of `(x, y)` or `(x, y, sample_weight)`.
        loss: Called with `x`, `y`, `sample_weight` and the model; returns a scalar.
        batches: Number of batches, at most.

    Raises:
        ValueError: If there is no batch, or the loss depends on no weight.
    """
    variables = [
        v
        for v in model.weights
        if "float" in str(v.dtype) and not v.path.endswith(("moving_mean", "moving_variance"))
    ]
    scores = TaylorScores(variables)
    found = False
    for batch in itertools.islice(iter(data), batches):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            tape.watch([v.value for v in variables])  # frozen ones matter as well
            value = loss(x, y, sample_weight, model)
        gradients = tape.gradient(value, [v.value for v in variables])
        found = found or any(gradient is not None for gradient in gradients)
        scores.add(gradients)
    if not found:
        raise ValueError(
            'importance="taylor" found no gradient: `data` holds no batch, or the loss does not '
            "depend on the model's weights."
        )
    return scores


def _numpy(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable.value), dtype=np.float32)
