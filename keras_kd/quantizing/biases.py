"""Biases on the grid of an int8 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.quantizing.kernels import QuantizedKernel
from keras_kd.quantizing.ranges import Ranges
from keras_kd.quantizing.sites import Sites


def bake_biases(
    operations: Mapping[str, Any],
    sites: Sites,
    ranges: Ranges,
    kernels: Sequence[QuantizedKernel],
) -> None:
    """Move biases to the nearest values that the file can hold, with folded normalizations.

    The file adds an integer of 32 bits, whose step is that of the input times that of the kernel,
    which has 8 bits there also if it was trained for 4. An int4 file holds biases in float.

    Args:
        operations: The layers of the student by path.
        sites: Where its activations are rounded.
        ranges: Their ranges.
        kernels: Its kernels, which hold their rounded values.
    """
    held = {kernel.path: kernel for kernel in kernels if kernel.channels}
    normalizations = {before: operations[path] for path, before in sites.folded.items()}
    limits = ranges.to_json()
    for path, site in sites.inputs.items():
        layer = normalization = operations[path]
        largest: Any = 1.0
        if path not in sites.scaled:
            normalization = normalizations.get(path)
            if path not in held:
                continue
            kernel = held[path]
            largest = np.abs(kernel.to_columns(_values(kernel.variable))).max(0)
        low, high = site.fixed or limits[site.range_name]
        _move(layer, normalization, (high - low) / 255 * largest / 127)


def _move(layer: Any, normalization: Any, grid: Any) -> None:
    """Round what is added behind a kernel to a grid of one step per channel."""
    bias = None if layer is normalization else getattr(layer, "bias", None)
    offset: Any = 0.0 if bias is None else np.ravel(_values(bias))
    if normalization is not None:
        scale = 1.0 / np.sqrt(_values(normalization.moving_variance) + normalization.epsilon)
        if normalization.scale:
            scale = scale * _values(normalization.gamma)
        offset = (offset - _values(normalization.moving_mean)) * scale
        if normalization.center:
            offset = offset + _values(normalization.beta)
        grid = grid * np.abs(scale)
    if np.shape(offset) != np.shape(grid):  # no bias, or one of several per channel
        return
    step = np.maximum(grid, 1e-30)
    change = np.where(grid > 0.0, np.round(offset / step) * step - offset, 0.0)
    if bias is not None and normalization is None:
        bias.assign(_values(bias) + change.reshape(bias.shape))
    elif normalization.center:
        normalization.beta.assign(_values(normalization.beta) + change)
    else:
        mean = normalization.moving_mean
        mean.assign(_values(mean) - change / np.where(scale == 0.0, 1.0, scale))


def _values(variable: Any) -> np.ndarray:
    return np.asarray(variable.value, "float64")
