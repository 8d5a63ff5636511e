"""Ways of writing a layer as two layers with a few channels between them."""

from __future__ import annotations

import dataclasses
import functools
import math
import string
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Factorization:
    """One way of writing a layer as two, at every rank.

    Attributes:
        kind: `"dense"`, `"channel"` (a convolution to a few channels, then one of size 1) or
            `"spatial"` (a vertical convolution, then a horizontal one).
        kernel_size: Number of weights of the layer's kernel.
        parameters_per_rank: Number of weights that one more channel costs.
        singular_values: Those of the kernel as a matrix, from the largest on; of a grouped
            convolution, the root of the sum of squares over the groups.
        make: From a rank to the two kernels.
        configs: From a rank to the changes in the two layers' configurations.
    """

    kind: str
    kernel_size: int
    parameters_per_rank: int
    singular_values: np.ndarray
    make: Callable[[int], tuple[np.ndarray, np.ndarray]]
    configs: Callable[[int], tuple[dict[str, Any], dict[str, Any]]]

    @property
    def full_rank(self) -> int:
        """The rank at which the two layers do exactly what the one does."""
        return len(self.singular_values)

    def parameters(self, rank: int) -> int:
        """Return the number of weights of the two kernels."""
        return rank * self.parameters_per_rank

    def energy(self, rank: int) -> float:
        """Return the part of the squared singular values that `rank` of them keep."""
        squares = self.singular_values**2
        total = float(squares.sum())
        return float(squares[:rank].sum()) / total if total else 1.0

    def rank_of(self, energy: float) -> int:
        """Return the least rank that keeps `energy`, at least 1."""
        if energy >= 1.0:
            return self.full_rank
        squares = np.cumsum(self.singular_values**2)
        if squares[-1] == 0.0:
            return 1
        rank = 1 + int(np.searchsorted(squares / squares[-1], energy - 1e-12))
        return min(rank, self.full_rank)


def factorizations(layer: Any) -> list[Factorization] | str:
    """Return the ways of writing a Keras 3 layer as two, or why there is none.

    Args:
        layer: A built layer.
    """
    class_name = type(layer).__name__
    builders = {
        "Dense": _dense,
        "EinsumDense": _einsum,
        "Conv1D": _convolution,
        "Conv2D": _convolution,
        "Conv3D": _convolution,
    }
    if class_name not in builders or not type(layer).__module__.startswith("keras.src.layers."):
        return f"{class_name} is not a Dense, EinsumDense or convolutional layer"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return "its kernel is quantized or adapted by LoRA"
    if layer.kernel_constraint is not None:
        return "its kernel has a constraint, which factors could not keep"
    return builders[class_name](layer)


def _kernel(layer: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)


def _singular_values(matrices: np.ndarray) -> np.ndarray:
    """Return the singular values, a fraction of the time that the factors would take.

    Those of the Gram matrix are exact to 1e-16 of the largest square: enough for an energy.
    """
    turned = matrices.transpose(0, 2, 1)
    wide = matrices.shape[1] < matrices.shape[2]
    gram = matrices @ turned if wide else turned @ matrices
    squares = np.maximum(np.linalg.eigvalsh(gram)[:, ::-1], 0.0)
    return np.sqrt(squares.sum(0))


def _factors(matrices: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return what computes left and right factors, the singular values shared out evenly."""

    @functools.cache
    def factors() -> tuple[np.ndarray, np.ndarray]:
        left, values, right = np.linalg.svd(matrices, full_matrices=False)
        root = np.sqrt(values)
        return left * root[:, None, :], root[:, :, None] * right

    return factors


def _dense(layer: Any) -> list[Factorization]:
    kernel = _kernel(layer)
    factors = _factors(kernel[None])

    def make(rank: int) -> tuple[np.ndarray, np.ndarray]:
        left, right = factors()
        return left[0, :, :rank], right[0, :rank]

    return [
        Factorization(
            "dense",
            kernel.size,
            sum(kernel.shape),
            _singular_values(kernel[None]),
            make,
            lambda rank: ({"units": rank}, {}),
        )
    ]


def _einsum(layer: Any) -> list[Factorization] | str:
    simple = "only equations that contract axes of the input with a kernel are factorized"
    try:
        operands, output = layer.equation.replace(" ", "").split("->")
        given, weights = operands.split(",")
    except ValueError:
        return simple
    contracted = [axis for axis in weights if axis in given and axis not in output]
    made = [axis for axis in weights if axis in output and axis not in given]
    kept = "".join(axis for axis in given if axis not in contracted)
    letters = given + weights + output
    if (
        not all(axis in string.ascii_letters for axis in letters)
        or any(len(set(term)) != len(term) for term in (given, weights, output))
        or len(contracted) + len(made) != len(weights)
        or not contracted
        or not made
        or given[0] in contracted
        or any(axis not in output for axis in kept)
    ):
        return simple
    between = next(letter for letter in string.ascii_lowercase if letter not in letters)
    kernel = _kernel(layer).transpose([weights.index(axis) for axis in contracted + made])
    rows = math.prod(kernel.shape[: len(contracted)])
    values = _singular_values(kernel.reshape(1, rows, -1))
    factors = _factors(kernel.reshape(1, rows, -1))

    def make(rank: int) -> tuple[np.ndarray, np.ndarray]:
        left, right = factors()
        return (
            left[0, :, :rank].reshape(*kernel.shape[: len(contracted)], rank),
            right[0, :rank].reshape(rank, *kernel.shape[len(contracted) :]),
        )

    def configs(rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
        first = f"{given},{''.join(contracted)}{between}->{kept}{between}"
        second = f"{kept}{between},{between}{''.join(made)}->{output}"
        shape = (*[None] * (len(kept) - 1), rank)
        return {"equation": first, "output_shape": shape, "bias_axes": None}, {"equation": second}

    return [Factorization("dense", kernel.size, rows + kernel.size // rows, values, make, configs)]


def _convolution(layer: Any) -> list[Factorization]:
    kernel = _kernel(layer)
    *size, depth, filters = kernel.shape
    groups, ones = layer.groups, (1,) * len(size)
    rows = math.prod(size) * depth
    # One matrix per group: its output channels are the columns.
    matrices = kernel.reshape(rows, groups, filters // groups).transpose(1, 0, 2)
    values, factors = _singular_values(matrices), _factors(matrices)

    def make(rank: int) -> tuple[np.ndarray, np.ndarray]:
        left, right = factors()
        first = left[:, :, :rank].transpose(1, 0, 2).reshape(*size, depth, groups * rank)
        second = right[:, :rank].transpose(1, 0, 2).reshape(*ones, rank, filters)
        return first, second

    def configs(rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"filters": groups * rank}, {
            "kernel_size": ones,
            "strides": ones,
            "dilation_rate": ones,
            "padding": "valid",
        }

    cost = groups * rows + filters
    ways = [Factorization("channel", kernel.size, cost, values, make, configs)]
    if len(size) == 2 and groups == 1 and min(size) > 1:
        ways.append(_spatial(layer, kernel))
    return ways


def _spatial(layer: Any, kernel: np.ndarray) -> Factorization:
    height, width, depth, filters = kernel.shape
    matrix = kernel.transpose(0, 2, 1, 3).reshape(height * depth, width * filters)
    values, factors = _singular_values(matrix[None]), _factors(matrix[None])

    def make(rank: int) -> tuple[np.ndarray, np.ndarray]:
        left, right = factors()
        first = left[0, :, :rank].reshape(height, 1, depth, rank)
        second = right[0, :rank].reshape(rank, width, filters).transpose(1, 0, 2)[None]
        return first, second

    def configs(rank: int) -> tuple[dict[str, Any], dict[str, Any]]:
        (down, across), (down_rate, across_rate) = layer.strides, layer.dilation_rate
        return {
            "filters": rank,
            "kernel_size": (height, 1),
            "strides": (down, 1),
            "dilation_rate": (down_rate, 1),
        }, {
            "kernel_size": (1, width),
            "strides": (1, across),
            "dilation_rate": (1, across_rate),
        }

    cost = height * depth + width * filters
    return Factorization("spatial", kernel.size, cost, values, make, configs)
