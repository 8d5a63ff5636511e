"""Quantization after training: ranges and weights for a model that was not trained for few bits."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.calls import Trace, changed_calls, operations_of, trace_calls
from keras_kd.models.graph import DEPTHWISE, input_tensors
from keras_kd.models.views import read_as
from keras_kd.quantizing.equalization import equalized
from keras_kd.quantizing.kernels import KernelRounding, quantizable_kernels
from keras_kd.quantizing.quantization import Quantization
from keras_kd.quantizing.ranges import Ranges, measure_of
from keras_kd.quantizing.sites import Sites, find_sites

Weights = list[tuple[keras.Variable, np.ndarray]]
_NO_SITES = Sites((), {}, frozenset(), {})
_SUMS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


class PostTraining:
    """Quantizes a trained model in several ways; the model stays as it is.

    Args:
        model: A built Keras 3 model.
        batches: Batches of inputs, in the structure in which the model takes them.
        spared: Paths of the layers that stay float. Defaults to none.
        given: Layers whose outputs are given beside the model's, which equalization leaves as they
            are; `None` if anything may be given, so that nothing is equalized. Defaults to none.

    Raises:
        ValueError: In `quantization`, if no channels can be equalized.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Sequence[Any],
        spared: Collection[str] = (),
        given: Collection[Any] | None = (),
    ) -> None:
        self._model, self._batches, self._given = model, batches, given
        specs = keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), input_tensors(model)
        )
        self._trace = trace_calls(model, specs)
        self._sites = find_sites(self._trace, spared)

    def quantization(
        self, ranges: str | None, equalize: bool = False, correct: bool = False
    ) -> Quantization:
        """Return what the model computes like.

        Args:
            ranges: How the ranges of activations are taken from the batches: `"minmax"`,
                `"percentile"` or `"mse"`. `None` rounds no activation: a converter is to find their
                ranges.
            equalize: Whether the channels of neighboring layers are equalized. Defaults to
                `False`.
            correct: Whether biases make up for what rounding the kernels adds on average. Defaults
                to `False`.
        """
        weights = self._equalized() if equalize else []
        if equalize and not weights:
            raise ValueError(
                f"Model '{self._model.name}' has no channels to equalize: no layer whose outputs "
                "go through rectifiers and pooling to one other layer with a kernel, and are not "
                "given by a signature. A function as a signature may give any of them. Leave "
                "'equalization' out."
            )
        if correct:
            weights = _corrected(self._model, self._trace, self._sites, self._batches, weights)
        sites = self._sites if ranges else _NO_SITES
        quantization = self._quantization(sites, weights, ranges or "minmax")
        if ranges:
            quantization.calibrate(self._batches, measure_of(ranges, 8))
        return quantization

    def in_float(self, ranges: str | None, equalize: bool = False) -> Quantization:
        """Return the same without any rounding, nor what makes up for it.

        Its layers can stand beside those of `quantization` with the same arguments.

        Args:
            ranges: As there.
            equalize: As there.
        """
        weights = self._equalized() if equalize else []
        scaled = self._sites.scaled if ranges else frozenset()
        return self._quantization(dataclasses.replace(_NO_SITES, scaled=scaled), weights, "minmax")

    def _equalized(self) -> Weights:
        if self._given is None:
            return []
        return equalized(self._model, self._trace, self._given)

    def _quantization(self, sites: Sites, weights: Weights, ranges: str) -> Quantization:
        held = [(variable, tf.Variable(value, trainable=False)) for variable, value in weights]
        return Quantization(self._model, sites, Ranges(sites.sites, 8, ranges), weights=held)


def _corrected(
    model: keras.Model, trace: Trace, sites: Sites, batches: Sequence[Any], weights: Weights
) -> Weights:
    """Return weights with the mean error of rounded kernels taken from the biases behind them.

    A kernel that is rounded from `W` to `W'` adds `(W' - W) E[x]` to the mean of its outputs. It is
    taken from the bias or, where there is none, from the normalization that is folded into the
    kernel. Padding is not counted in `E[x]`.

    Reference:
        Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias
        Correction" (arXiv:1906.04721), section 4.2, with means measured on data.
    """
    values = {id(variable): (variable, value) for variable, value in weights}
    times = collections.Counter(call.path for call in trace.calls)
    calls = {
        call.path: call
        for call in trace.calls
        if isinstance(call.operation, (*_SUMS, *DEPTHWISE)) and times[call.path] == 1
    }
    operations = operations_of(model)
    normalizations = {before: operations[path] for path, before in sites.folded.items()}
    means = _means_of_inputs(model, calls, batches, weights)
    kernels = quantizable_kernels(
        {path: call.operation for path, call in calls.items()}, lambda path, layer: 8
    )
    with read_as(model, weights):
        rounded = KernelRounding(kernels).rounded()
        errors = {
            kernel.path: np.asarray(value - tf.convert_to_tensor(kernel.variable.value))
            for kernel, (_, value) in zip(kernels, rounded, strict=True)
        }
    for path, error in errors.items():
        layer = calls[path].operation
        error = error.sum(axis=tuple(range(error.ndim - 2)))
        if isinstance(layer, DEPTHWISE):
            shift = (means[path][:, None] * error).reshape(-1)
        elif len(means[path]) == len(error):
            shift = means[path] @ error
        else:  # a convolution of groups
            continue
        variable, sign = layer.bias, -1.0
        if variable is None:  # a normalization takes a mean away
            variable, sign = getattr(normalizations.get(path), "moving_mean", None), 1.0
        if variable is not None:
            _, value = values.get(id(variable), (None, np.asarray(variable.value)))
            values[id(variable)] = (variable, (value + sign * shift).astype("float32"))
    return list(values.values())


def _means_of_inputs(
    model: keras.Model, paths: Collection[str], batches: Sequence[Any], weights: Weights
) -> dict[str, np.ndarray]:
    """Return the mean of every input channel of some layers."""
    operations = operations_of(model)

    @tf.function(autograph=False, reduce_retracing=True)
    def means_of(batch: Any) -> dict[str, tf.Tensor]:
        found: dict[str, tf.Tensor] = {}

        def around(
            path: str, operation: Any, call: Callable[..., Any], args: Any, kwargs: Any
        ) -> Any:
            if path in paths:
                x = tf.cast(args[0] if args else kwargs["inputs"], tf.float32)
                first = getattr(operation, "data_format", None) == "channels_first"
                channels = 1 if first else len(x.shape) - 1
                others = [axis for axis in range(len(x.shape)) if axis != channels]
                found[path] = tf.reduce_mean(x, axis=others)
            return call(*args, **kwargs)

        with changed_calls(operations, around), read_as(model, weights):
            model(batch, training=False)
        return found

    sums: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        for path, mean in means_of(batch).items():
            sums.setdefault(path, []).append(np.asarray(mean))
    return {path: np.mean(found, axis=0) for path, found in sums.items()}
