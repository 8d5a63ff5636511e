"""NST: the distribution of the channels' activation patterns."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss, flatten_sides
from keras_kd.losses.shared.norms import l2_normalize
from keras_kd.losses.shared.pooling import pool_to_smaller


def nst(teacher: Any, student: Any) -> Any:
    """Return the maximum mean discrepancy of two maps' channels under the kernel `(x . y)^2`.

    Args:
        teacher: Map of the teacher, `[batch, side_1, ..., channels]`.
        student: Map of the student; its sides and channels may differ.

    Returns:
        Tensor `[batch]`.
    """
    teacher, student = (
        l2_normalize(flatten_sides(x), axis=1) for x in pool_to_smaller(teacher, student)
    )

    def mean_kernel(x: Any, y: Any) -> Any:
        products = ops.matmul(ops.transpose(x, (0, 2, 1)), y)
        return ops.mean(ops.square(products), axis=(1, 2))

    return (
        mean_kernel(teacher, teacher)
        + mean_kernel(student, student)
        - 2.0 * mean_kernel(student, teacher)
    )


@keras.saving.register_keras_serializable(package="keras_kd")
class NST(MapLoss):
    """Neuron selectivity transfer.

    Each channel's map is divided by its norm over space; the channels of teacher and student are
    compared as two sets, by the maximum mean discrepancy with the kernel `(x . y)^2`. Channels
    need not agree; of two maps the larger is first average-pooled to the sides of the smaller. It
    is computed in float64, since the three terms cancel.

    Args:
        name: Name of the loss. Defaults to `"nst"`.

    Raises:
        ValueError: When called, if a feature is not a map.

    Example:

    ```python
    hint = keras_kd.Hint("block3", "block2", loss=keras_kd.losses.NST())
    ```

    Reference:
        Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer,
        2017, arXiv:1707.01219; the reduction is RepDistiller's.
    """

    equal_shapes = False

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        values = nst(ops.cast(teacher, "float64"), ops.cast(student, "float64"))
        return ops.cast(values, student.dtype)
