"""FSP: how the features of one layer flow into those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss, flatten_sides
from keras_kd.losses.shared.pooling import pool_to_smaller


def fsp_matrix(first: Any, second: Any) -> Any:
    """Return `x^T y / positions` of two maps, the larger pooled to the sides of the smaller.

    Args:
        first: Map `[batch, side_1, ..., channels_1]`.
        second: Map `[batch, side_1, ..., channels_2]`.

    Returns:
        Tensor `[batch, channels_1, channels_2]`.
    """
    first, second = (flatten_sides(x) for x in pool_to_smaller(first, second))
    positions = ops.cast(ops.shape(first)[1], first.dtype)
    return ops.matmul(ops.transpose(first, (0, 2, 1)), second) / positions


def fsp(teacher: Sequence[Any], student: Sequence[Any]) -> Any:
    """Return the squared difference of the flow matrices, averaged over their entries.

    Args:
        teacher: Two maps of the teacher.
        student: Two maps of the student, with the teacher's channels.

    Returns:
        Tensor `[batch]`.
    """
    difference = fsp_matrix(*teacher) - fsp_matrix(*student)
    return ops.mean(ops.square(difference), axis=(1, 2))


@keras.saving.register_keras_serializable(package="keras_kd")
class FSP(MapLoss):
    """Flow of the solution procedure: the Gram matrix between two layers.

    Takes two maps on each side, the beginning and the end of a block. Of the two maps of a model
    the larger is average-pooled to the sides of the smaller; `G = x^T y / (h w)`, and the loss is
    the mean of the squared differences of `G`. Channels must agree: a `keras_kd.Hint` projects the
    student's. The sides of the two models need not.

    Args:
        name: Name of the loss. Defaults to `"fsp"`.

    Raises:
        TypeError: When called with one tensor per side.
        ValueError: When called with more or fewer than two maps, or unequal channels.

    Example:

    ```python
    hint = keras_kd.Hint(["block1", "block3"], ["block1", "block2"], loss=keras_kd.losses.FSP())
    ```

    Reference:
        Yim et al., A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
        Transfer Learning, CVPR 2017.
    """

    several_layers = True
    equal_sides = False

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse anything but two maps a side, of equal channels."""
        if len(teacher) != 2 or len(student) != 2:
            raise ValueError(
                f"FSP compares two layers of each model. Received: {len(teacher)} of the "
                f"teacher's and {len(student)} of the student's."
            )
        super().check_shapes(teacher, student)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        return fsp(teacher, student)
