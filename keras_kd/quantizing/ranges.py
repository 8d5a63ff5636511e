"""The ranges of activations: the quantizers that hold them, and how they are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.tfmot import import_tfmot
from keras_kd.quantizing.sites import Site

Measure = Callable[[np.ndarray], tuple[float, float]]
RANGES = ("minmax", "percentile", "mse", "learned")
PERCENTILE = 99.99


def measure_of(ranges: str, bits: int) -> Measure:
    """Return how a range is taken from the values of some batches.

    Args:
        ranges: One of `RANGES`.
        bits: The bits of an activation.
    """
    if ranges == "minmax":
        return lambda values: (float(values.min()), float(values.max()))
    if ranges == "percentile":
        return _percentile
    return lambda values: _least_squares(values, 2**bits - 1)


def _percentile(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [100.0 - PERCENTILE, PERCENTILE])
    return float(low), float(high)


def _least_squares(values: np.ndarray, steps: int) -> tuple[float, float]:
    """Return the range whose rounded values have the smallest squared error."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    best, smallest = (low, high), np.inf
    for fraction in np.geomspace(0.05, 1.0, 40):
        least, most = low * fraction, high * fraction
        scale = max((most - least) / steps, 1e-12)
        rounded = np.round((np.clip(values, least, most) - least) / scale) * scale + least
        error = float(np.mean(np.square(rounded - values)))
        if error < smallest:
            best, smallest = (least, most), error
    return best


def off_the_middle(low: float, high: float, bits: int) -> tuple[float, float]:
    """Return a range whose ends do not lie in the middle of two steps.

    Of images from -1 to 1 every pixel of 8 bits would, and kernels round such values differently.

    Args:
        low: The smallest value, at most 0.
        high: The largest value, at least 0.
        bits: The bits of an activation.
    """
    steps = 2**bits - 1
    zero = -low * steps / max(high - low, 1e-12)
    if abs(zero % 1.0 - 0.5) > 1e-3:
        return low, high
    below = math.ceil(zero)
    scale = max(-low / below, high / (steps - below))
    return -below * scale, (steps - below) * scale


class Ranges(keras.layers.Layer):
    """The variables of the activations' quantizers.

    Args:
        sites: Where they stand.
        bits: The bits of an activation. Defaults to `8`.
        ranges: `"minmax"`, which follow a moving average while training, `"percentile"` and
            `"mse"`, which stay as they were measured, or `"learned"` by gradient. Defaults to
            `"minmax"`.
        make_quantizer: Returns a quantizer of TF-MOT for a number of bits. Defaults to `None`:
            `MovingAverageQuantizer`.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        bits: int = 8,
        ranges: str = "minmax",
        make_quantizer: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(name="ranges", dtype="float32")
        make = make_quantizer or _moving_average
        self.bits = bits
        self._follows = ranges == "minmax" or make_quantizer is not None
        self._quantizers: dict[str, tuple[Any, dict[str, Any]]] = {}
        for site in sites:
            if site.fixed is None and site.range_name not in self._quantizers:
                quantizer = make(bits)
                adapter = _Adapter(self, trainable=ranges == "learned")
                weights = quantizer.build(tf.TensorShape([None]), "range", adapter)
                self._quantizers[site.range_name] = (quantizer, weights)
        self.built = True

    def quantized(self, site: Site, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Return a tensor rounded to the integers of a site's range."""
        values = tf.cast(x, tf.float32)
        if site.fixed is not None:
            return self.fixed(site.fixed, x)
        quantizer, weights = self._quantizers[site.range_name]
        variables = {name: variable.value for name, variable in weights.items()}
        if training and self._follows:
            extremes = _extremes(values)
            if site.shared not in ("", site.name):  # a part of what has this range
                held = [tf.reshape(variables[key], [-1]) for key in ("min_var", "max_var")]
                extremes = tf.concat([extremes, *held], 0)
            quantizer(extremes, True, variables)
        return tf.cast(quantizer(values, False, variables), x.dtype)

    def fixed(self, limits: tuple[float, float], x: tf.Tensor) -> tf.Tensor:
        """Return a tensor rounded to the integers of a range that its operator asks for."""
        low, high = limits if self.bits == 8 else (-1.0, 1.0)
        values = tf.cast(x, tf.float32)
        rounded = tf.quantization.fake_quant_with_min_max_args(
            values, low, high, self.bits, narrow_range=self.bits > 8
        )
        return tf.cast(rounded, x.dtype)

    def set_range(self, site: Site, low: float, high: float) -> None:
        """Set the range of a site."""
        weights = self._quantizers[site.range_name][1]
        for name, value in (("min_var", low), ("max_var", high)):
            weights[name].assign(np.full(weights[name].shape, value, "float32"))

    def to_json(self) -> dict[str, list[float]]:
        """Return the ranges that were measured or learned, by the name of their site."""
        return {
            name: [
                float(np.ravel(keras.ops.convert_to_numpy(weights[key]))[0])
                for key in ("min_var", "max_var")
            ]
            for name, (_, weights) in self._quantizers.items()
        }


def _extremes(values: tf.Tensor) -> tf.Tensor:
    """Return the smallest and the largest value, over all replicas."""
    found = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
    found = tf.stop_gradient(found)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        found = context.all_gather(found, axis=0)
    return found


def _moving_average(bits: int) -> Any:
    quantizers = import_tfmot().quantization.keras.quantizers
    return quantizers.MovingAverageQuantizer(
        num_bits=bits, per_axis=False, symmetric=bits > 8, narrow_range=bits > 8
    )


class _Adapter:
    """Lets a quantizer of TF-MOT make its variables in a layer of Keras 3."""

    def __init__(self, layer: keras.layers.Layer, trainable: bool) -> None:
        self._layer = layer
        self._trainable = trainable

    def add_weight(
        self, name: str, shape: Any = None, initializer: Any = None, trainable: bool = False
    ) -> keras.Variable:
        shape = () if shape is None else tuple(np.atleast_1d(shape))
        first = 0.0 if initializer is None else np.ravel(initializer(shape or (1,)))[0]
        return self._layer.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(float(first)),
            trainable=trainable or self._trainable,
            aggregation="mean",
            autocast=False,  # read inside of layers, which may compute in half precision
        )
