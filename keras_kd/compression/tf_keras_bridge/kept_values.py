"""Weights that stay zero, or stay equal to one another, while they are trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf


class KeptValues:
    """Keeps the zeros of a variable zero and its equal values equal.

    Weights with the same value are trained as one: their gradient is the mean of theirs, as in
    the trained quantization of Han et al., Deep Compression, 2016, arXiv:1510.00149. So the
    number of distinct values never grows.

    Args:
        variable: The variable.
        zeros: Whether zeros stay zero.
        equal: Whether equal values stay equal.
    """

    def __init__(self, variable: Any, zeros: bool, equal: bool) -> None:
        values = np.asarray(variable)
        self.variable = variable
        self._mask = tf.constant(values != 0, variable.dtype) if zeros else None
        self._indices: Any = None
        if equal:
            distinct, indices = np.unique(values.reshape(-1), return_inverse=True)
            self._indices = tf.constant(indices.reshape(-1), tf.int32)
            self._count = len(distinct)

    def project(self, values: Any) -> Any:
        """Return the nearest values that keep to it, of a gradient or of the variable.

        Args:
            values: A tensor of the variable's shape.
        """
        values = tf.convert_to_tensor(values)
        if self._indices is not None:
            means = tf.math.unsorted_segment_mean(
                tf.reshape(values, [-1]), self._indices, self._count
            )
            values = tf.reshape(tf.gather(means, self._indices), tf.shape(values))
        return values if self._mask is None else values * self._mask


def kept_values(
    variables: Iterable[Any], zeros: bool, clustered: Collection[Any] = ()
) -> list[KeptValues]:
    """Return what is to be kept of the kernels among `variables`.

    Zeros are found by value, where the student is one that was pruned. Shared values are not:
    weights are equal by chance in a kernel that was stored in 16 bits, or that is large.

    Args:
        variables: Variables; those of less than two axes are left out.
        zeros: Whether zeros are there to stay: a student that was never pruned has some by chance.
        clustered: The variables that a `Cluster` stage treated. Defaults to none.
    """
    tied = {variable.ref() for variable in clustered}
    kept = []
    for variable in variables:
        if variable.shape.rank is None or variable.shape.rank < 2:
            continue
        values = np.asarray(variable)
        has_zeros = zeros and bool((values == 0).any())
        equal = variable.ref() in tied
        if (values != 0).any() and (has_zeros or equal):
            kept.append(KeptValues(variable, has_zeros, equal))
    return kept
