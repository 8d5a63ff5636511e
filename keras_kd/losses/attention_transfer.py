"""AttentionTransfer: where in the map teacher and student are active."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss, flatten_sides
from keras_kd.losses.shared.norms import l2_normalize
from keras_kd.losses.shared.pooling import pool_to_smaller
from keras_kd.system.arguments import number


def attention_map(feature: Any, p: int = 2) -> Any:
    """Return `mean_c f^p`, flattened and of Euclidean length one.

    Args:
        feature: Map `[batch, side_1, ..., channels]`.
        p: Power. Defaults to `2`.

    Returns:
        Tensor `[batch, positions]`.
    """
    return l2_normalize(ops.mean(ops.power(flatten_sides(feature), p), axis=-1))


def attention_transfer(teacher: Any, student: Any, p: int = 2) -> Any:
    """Return the squared difference of two attention maps, averaged over positions.

    Args:
        teacher: Map of the teacher, `[batch, side_1, ..., channels]`.
        student: Map of the student; its sides and channels may differ.
        p: Power. Defaults to `2`.

    Returns:
        Tensor `[batch]`.
    """
    teacher, student = pool_to_smaller(teacher, student)
    return ops.mean(ops.square(attention_map(teacher, p) - attention_map(student, p)), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class AttentionTransfer(MapLoss):
    """Attention transfer: the mean power of the channels at each position is compared.

    The map `mean_c f^p` is flattened and divided by its norm (at least `1e-12`); the loss is the
    mean over batch and positions of the squared differences. Channels need not agree; of two maps
    the larger is first average-pooled to the sides of the smaller.

    Args:
        p: Power, a whole number above 0. Defaults to `2`.
        name: Name of the loss. Defaults to `"attention_transfer"`.

    Raises:
        ValueError: If `p` is not a whole number above 0; when called, if a feature is not a map.

    Example:

    ```python
    hint = keras_kd.Hint("block3", "block2", loss=keras_kd.losses.AttentionTransfer())
    ```

    Reference:
        Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, arXiv:1612.03928; the
        mean over positions is that of the authors' code.
    """

    equal_shapes = False

    def __init__(self, p: int = 2, name: str | None = None) -> None:
        super().__init__(name)
        self.p = number("p", p, least=1, whole=True, owner="AttentionTransfer")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        return attention_transfer(teacher, student, self.p)
