"""ReviewKD: deep features of the student help its shallow ones to imitate the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.parameters import (
    Shape,
    built_parameters,
    number_of_channels,
    torch_default,
    torch_default_bias,
    uniform_by_fan_in,
)
from keras_kd.losses.shared.pooling import adaptive_average_pool
from keras_kd.system.arguments import number


def hierarchical_context(teacher: Any, student: Any) -> Any:
    """Return the mean squared difference of two maps at several sizes.

    `(mse + 1/2 mse@4 + 1/4 mse@2 + 1/8 mse@1) / sum of the weights used`, where `mse@n` is that of
    maps pooled to `n x n`. A size at or above the height is skipped, and the weight halves with
    every size that is not: a map of height 4 has weights 1, 1/2 (at 2) and 1/4 (at 1).

    Args:
        teacher: Map of the teacher, `[batch, height, width, channels]`.
        student: Map of the student, of the same shape.

    Returns:
        Tensor `[batch]`.
    """

    def mse(x: Any, y: Any) -> Any:
        return ops.mean(ops.square(x - y), axis=(1, 2, 3))

    total, weight, weights = mse(teacher, student), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[1]:
            continue
        weight /= 2.0
        pooled = [adaptive_average_pool(x, (side, side)) for x in (teacher, student)]
        total = total + weight * mse(*pooled)
        weights += weight
    return total / weights


def resize_nearest(x: Any, sides: tuple[int, int]) -> Any:
    """Return a map resized to `sides`, each element the one at `floor(i * n / m)`."""
    for axis, m in enumerate(sides, start=1):
        n = x.shape[axis]
        if n != m:
            x = ops.take(x, np.arange(m) * n // m, axis=axis)
    return x


class AttentionFusion(keras.layers.Layer):
    """Attention-based fusion of a student's feature with what came from the deeper layer.

    Args:
        channels: Channels of the teacher's feature.
        mid_channels: Channels in which features are fused.
        fuse: Whether there is a deeper layer.
        name: Name of the layer.
    """

    def __init__(self, channels: int, mid_channels: int, fuse: bool, name: str) -> None:
        super().__init__(dtype="float32", name=name)
        self.mid_channels = mid_channels

        def convolution(filters: int, side: int) -> keras.layers.Layer:
            return keras.layers.Conv2D(
                filters,
                side,
                padding="same",
                use_bias=False,
                kernel_initializer=uniform_by_fan_in(1.0),
                dtype="float32",
            )

        def normalization() -> keras.layers.Layer:
            return keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, dtype="float32")

        self.reduce, self.reduce_norm = convolution(mid_channels, 1), normalization()
        self.expand, self.expand_norm = convolution(channels, 3), normalization()
        self.attention = None
        if fuse:
            self.attention = keras.layers.Conv2D(
                2,
                1,
                activation="sigmoid",
                kernel_initializer=torch_default(),
                bias_initializer=torch_default_bias(2 * mid_channels),
                dtype="float32",
            )

    def build(self, input_shape: Shape) -> None:
        """Make the variables for a student's feature of this shape."""
        middle = (*input_shape[:-1], self.mid_channels)
        self.reduce.build(input_shape)
        self.reduce_norm.build(middle)
        self.expand.build(middle)
        self.expand_norm.build((*input_shape[:-1], self.expand.filters))
        if self.attention is not None:
            self.attention.build((*input_shape[:-1], 2 * self.mid_channels))
        self.built = True

    def call(self, x: Any, deeper: Any, sides: tuple[int, int]) -> tuple[Any, Any]:
        """Fuse.

        Args:
            x: Feature of the student, `[batch, height, width, channels]`.
            deeper: What the fusion of the next deeper layer handed on, or `None`.
            sides: Height and width of the teacher's feature.

        Returns:
            The feature to compare with the teacher's, and what is handed on.
        """
        # Statistics are the batch's own: the fusion is used in training only.
        x = self.reduce_norm(self.reduce(x), training=True)
        if self.attention is not None:
            deeper = resize_nearest(deeper, tuple(x.shape[1:3]))
            weights = self.attention(ops.concatenate([x, deeper], axis=-1))
            x = x * weights[..., :1] + deeper * weights[..., 1:]
        x = resize_nearest(x, sides)
        return self.expand_norm(self.expand(x), training=True), x


class Review(keras.layers.Layer):
    """The fusions of all layers, from deep to shallow.

    Args:
        channels: Channels of the teacher's features, from shallow to deep.
        mid_channels: Channels in which features are fused.
    """

    def __init__(self, channels: Sequence[int], mid_channels: int) -> None:
        super().__init__(dtype="float32", name="review")
        self.fusions = [
            AttentionFusion(width, mid_channels, i < len(channels) - 1, f"fusion_{i}")
            for i, width in enumerate(channels)
        ]

    def build(self, input_shapes: Sequence[Shape]) -> None:
        """Make the variables for a student's features of these shapes."""
        for fusion, shape in zip(self.fusions, input_shapes, strict=True):
            fusion.build(shape)
        self.built = True

    def call(self, features: Sequence[Any], sides: Sequence[tuple[int, int]]) -> list[Any]:
        """Return the fused features, from shallow to deep, in the sizes `sides`."""
        deeper, fused = None, []
        for fusion, x, size in list(zip(self.fusions, features, sides, strict=True))[::-1]:
            result, deeper = fusion(x, deeper, sides=size)
            fused.append(result)
        return fused[::-1]


@keras.saving.register_keras_serializable(package="keras_kd")
class ReviewKD(DistillationLoss):
    """Knowledge review.

    Features of several layers are fused from deep to shallow, each with the fused deeper ones,
    weighted by an attention over positions. Each fused feature is compared with the teacher's at
    the same depth by the hierarchical context loss, summed over layers and averaged over the batch.
    The fusions are trained with the student and are not part of it; they normalize with the
    statistics of the batch, also in evaluation.

    Layers are named from shallow to deep on both sides; sizes and channels need not agree. A
    feature without sides, `[batch, channels]`, counts as a map of 1x1: the authors end with the
    pooled feature.

    Args:
        mid_channels: Channels in which features are fused. Defaults to `None`, those of the
            student's deepest feature, but at most 512.
        name: Name of the loss. Defaults to `"review_kd"`.

    Raises:
        TypeError: When called with one tensor per side.
        ValueError: If `mid_channels` is not above 0; when built or called, if the sides differ in
            their number of layers or a feature is neither a map nor a vector.

    Example:

    ```python
    hint = keras_kd.Hint(
        ["block1", "block2", "block3", "pool"],
        ["block1", "block2", "block3", "pool"],
        loss=keras_kd.losses.ReviewKD(),
    )
    ```

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv:2104.09044; sizes and
        reductions are mdistiller's.
    """

    equal_shapes = False
    several_layers = True
    reads_features = True

    def __init__(self, mid_channels: int | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.mid_channels = number(
            "mid_channels", mid_channels, least=1, whole=True, optional=True, owner="ReviewKD"
        )

    def build(self, teacher_shape: Sequence[Shape], student_shape: Sequence[Shape]) -> None:
        """Make the fusions.

        Args:
            teacher_shape: Shapes of the teacher's features, from shallow to deep, batch first.
            student_shape: Shapes of the student's features, likewise.
        """
        _check_layers(teacher_shape, student_shape)
        channels = [number_of_channels("ReviewKD", shape, "teacher") for shape in teacher_shape]
        widths = [number_of_channels("ReviewKD", shape, "student") for shape in student_shape]
        parameters = Review(channels, self.mid_channels or min(512, widths[-1]))
        parameters.build([(None, None, None, width) for width in widths])
        self.parameters = parameters

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse unequal numbers of layers, and features that are neither maps nor vectors."""
        _check_layers([x.shape for x in teacher], [x.shape for x in student])

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        review = built_parameters(self)
        dtype = student[0].dtype
        teacher, student = ([_as_map(x) for x in side] for side in (teacher, student))
        fused = review(student, sides=[tuple(x.shape[1:3]) for x in teacher])
        return sum(
            hierarchical_context(t, ops.cast(s, dtype)) for t, s in zip(teacher, fused, strict=True)
        )


def _as_map(x: Any) -> Any:
    return ops.reshape(x, (-1, 1, 1, x.shape[-1])) if len(x.shape) == 2 else x


def _check_layers(teacher: Sequence[Any], student: Sequence[Any]) -> None:
    if len(teacher) != len(student):
        raise ValueError(
            f"ReviewKD compares equal numbers of layers. Received: {len(teacher)} of the teacher's "
            f"and {len(student)} of the student's."
        )
    for side, shapes in (("teacher", teacher), ("student", student)):
        for shape in shapes:
            if len(shape) not in (2, 4) or None in tuple(shape)[1:]:
                raise ValueError(
                    "ReviewKD needs maps [batch, height, width, channels] of known size or vectors "
                    f"[batch, channels]. Received: a {side}'s feature of shape {tuple(shape)}."
                )
