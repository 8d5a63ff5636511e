"""An orthogonal projection for features of the student, and normalized targets."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.losses.pearson_features import standardize_channels
from keras_kd.losses.shared.feature_maps import masked_center

_SQUARINGS = 6
_TERMS = 10


def matrix_exponential(matrix: Any) -> Any:
    """Return the exponential of a square matrix: a Taylor series of it divided by 64, squared.

    Exact to float32 for norms up to 64. `tf.linalg.expm` cannot be compiled with XLA.
    """
    scaled = matrix / 2.0**_SQUARINGS
    unit = ops.eye(matrix.shape[0], dtype=matrix.dtype)
    result = unit
    for n in range(_TERMS, 0, -1):
        result = unit + ops.matmul(scaled, result) / n
    for _ in range(_SQUARINGS):
        result = ops.matmul(result, result)
    return result


@keras.saving.register_keras_serializable(package="keras_kd")
class OrthogonalProjection(keras.layers.Layer):
    """A linear map along the last axis whose matrix is orthogonal.

    The matrix is part of the exponential of a trained skew-symmetric matrix. Towards more channels
    it keeps inner products: the student cannot leave part of its feature to the projection.
    Towards fewer channels it is an orthogonal projection.

    Args:
        units: Channels of the result.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the generator of the matrix."""
        self.width = int(input_shape[-1] or 0)
        side = max(self.width, self.units)
        self.generator = self.add_weight(
            shape=(side, side), initializer="glorot_uniform", name="generator"
        )
        self.built = True

    def matrix(self) -> Any:
        """Return the matrix, `[channels, units]`."""
        upper = ops.triu(ops.convert_to_tensor(self.generator), 1)
        full = matrix_exponential(upper - ops.transpose(upper))
        return full[: self.width, : self.units]

    def call(self, feature: Any) -> Any:
        """Return the projected feature, `[..., units]`."""
        return ops.matmul(feature, ops.cast(self.matrix(), feature.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the projected feature."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "units": self.units}


def whiten(feature: Any, mask: Any = None) -> Any:
    """Return a feature with the covariance of its channels over batch and positions removed.

    `(x - mean) (C + 1e-5 I)^(-1/2)`, `C` the sample covariance. Where there are fewer positions
    than channels, it is whitened in the directions that occur.

    Args:
        feature: Feature `[batch, ..., channels]`.
        mask: Where false, a position does not count; shape of the leading axes of `feature`.
            Defaults to `None`.
    """
    centered, count = masked_center(feature, mask)
    rows = ops.reshape(centered, (-1, feature.shape[-1]))
    covariance = ops.matmul(ops.transpose(rows), rows) / ops.maximum(count - 1, 1)
    values, vectors = tf.linalg.eigh(covariance)
    scaled = vectors / ops.sqrt(ops.maximum(values, 0) + 1e-5)
    return ops.matmul(centered, ops.matmul(scaled, ops.transpose(vectors)))


NORMALIZATIONS = {"standardize": standardize_channels, "whiten": whiten}
