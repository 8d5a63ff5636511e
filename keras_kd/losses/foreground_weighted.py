"""ForegroundWeighted: a feature loss with separate weights for objects and background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_kd.losses.fitnet import FitNet
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.pooling import adaptive_average_pool
from keras_kd.system.arguments import number


def foreground_mean(values: Any, foreground: Any) -> Any:
    """Return the mean of values by sample, weighed by the share of foreground at each position.

    Args:
        values: Values at the positions, `[batch, height, width]`.
        foreground: Shares from 0 to 1, of the same shape.

    Returns:
        Tensor `[batch]`; zero where a sample has no foreground.
    """
    total = ops.sum(foreground, axis=(1, 2))
    weighted = ops.sum(ops.cast(foreground, values.dtype) * values, axis=(1, 2))
    return weighted / ops.cast(ops.where(total > 0, total, ops.ones_like(total)), values.dtype)


@keras.saving.register_keras_serializable(package="keras_kd")
class ForegroundWeighted(DistillationLoss):
    """A loss on feature maps, averaged over objects and over the background separately.

    `foreground * mean over foreground + background * mean over background`, each sample by itself,
    so that few pixels of objects are not lost among many of background. The mask comes from the
    labels and is average-pooled to the size of the map: a position may count on both sides.

    It is the focal part of FGD. That code makes the mask from boxes, gives each object the same
    total weight and also multiplies by the teacher's attention; here each position of an object
    counts alike.

    Args:
        loss: A loss with one value for each position: `FitNet` or `PearsonFeatures`. Defaults to
            `None`, `FitNet()`.
        foreground: Weight of the foreground's mean. Defaults to `1.0`.
        background: Weight of the background's mean. Defaults to `0.5`.
        mask: Called with the labels, returns where the foreground is, `[batch, height, width]`
            with values from 0 to 1. Defaults to `None`: the labels are the classes of the pixels,
            `[batch, height, width]`, and all but `background_class` are foreground.
        background_class: Class of the background. Defaults to `0`.
        name: Name of the loss. Defaults to `"foreground_weighted"`.

    Raises:
        TypeError: If `loss` is not a loss on single features, or has variables of its own.
        ValueError: When called, if `loss` has no value for each position or the mask does not fit.

    Example:

    ```python
    hint = keras_kd.Hint(
        "block4_out",
        "block2_out",
        loss=keras_kd.losses.ForegroundWeighted(keras_kd.losses.PearsonFeatures()),
    )
    ```

    A detector, whose labels are the classes of a grid with `-1` where there is no object:

    ```python
    loss = keras_kd.losses.ForegroundWeighted(
        mask=lambda labels: keras.ops.cast(labels["classes"] >= 0, "float32")
    )
    ```

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, 2022, arXiv:2111.11837.
    """

    reads_features = True
    uses_labels = True

    def __init__(
        self,
        loss: DistillationLoss | None = None,
        foreground: float = 1.0,
        background: float = 0.5,
        mask: Callable[[Any], Any] | None = None,
        background_class: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        owner = "ForegroundWeighted"
        self.loss = FitNet() if loss is None else loss
        if (
            not isinstance(self.loss, DistillationLoss)
            or self.loss.several_layers
            or self.loss.uses_labels
            or hasattr(self.loss, "build")
        ):
            raise TypeError(
                "ForegroundWeighted weighs a loss on feature maps without variables of its own, "
                f"such as keras_kd.losses.FitNet(). Received: loss={loss!r}."
            )
        self.foreground = number("foreground", foreground, least=0, owner=owner)
        self.background = number("background", background, least=0, owner=owner)
        if mask is not None and not callable(mask):
            raise TypeError(
                f"{owner}: `mask` must be a function of the labels. Received: mask={mask!r}."
            )
        self.mask = mask
        self.background_class = number(
            "background_class", background_class, whole=True, owner=owner
        )
        self.equal_shapes = self.loss.equal_shapes

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, the loss serialized."""
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse what the inner loss refuses, and what is not a map `[batch, h, w, channels]`."""
        if len(student.shape) != 4:
            raise ValueError(
                "ForegroundWeighted needs maps of shape [batch, height, width, channels]. "
                f"Received: a student's feature of shape {tuple(student.shape)}."
            )
        self.loss.check_shapes(teacher, student)

    def _labels(self, labels: Any) -> Any:
        if self.mask is not None and labels is not None:
            return ops.cast(self.mask(labels), "float32")
        labels = super()._labels(labels)
        if len(labels.shape) == 4 and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
        return ops.cast(ops.not_equal(labels, self.background_class), "float32")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`; `labels` is the mask."""
        values = self.loss.call(teacher, student)
        if len(values.shape) != 3:
            raise ValueError(
                f"ForegroundWeighted needs a loss with one value per position. Received: "
                f"{type(self.loss).__name__} with values of shape {tuple(values.shape)}. Use "
                "FitNet or PearsonFeatures."
            )
        if len(labels.shape) != 3:
            raise ValueError(
                "ForegroundWeighted needs a mask of shape [batch, height, width]. Received: "
                f"shape {tuple(labels.shape)}. Pass `mask=`, a function of the labels."
            )
        mask = adaptive_average_pool(ops.expand_dims(labels, -1), ops.shape(values)[1:])[..., 0]
        return self.foreground * foreground_mean(values, mask) + self.background * foreground_mean(
            values, 1.0 - mask
        )
