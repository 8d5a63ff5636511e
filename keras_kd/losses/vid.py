"""VID: the information that the student's feature holds about the teacher's."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.parameters import (
    Shape,
    built_parameters,
    number_of_channels,
    torch_default,
)
from keras_kd.system.arguments import number


def negative_log_likelihood(teacher: Any, mean: Any, variance: Any) -> Any:
    """Return `1/2 ((m - t)^2 / variance + log variance)`, averaged over channels.

    Args:
        teacher: Feature of the teacher, `[..., channels]`.
        mean: Its prediction from the student's feature, `[..., channels]`.
        variance: Of each channel, `[channels]`.

    Returns:
        Tensor `[...]`.
    """
    return ops.mean(0.5 * (ops.square(mean - teacher) / variance + ops.log(variance)), axis=-1)


class GaussianRegressor(keras.layers.Layer):
    """Predicts a teacher's feature: a mean at each position, a variance for each channel.

    The mean is given by three 1x1 convolutions without bias, ReLU between them; the variance is
    `log(1 + exp(a)) + epsilon` with a trained `a`.

    Args:
        channels: Channels of the teacher's feature.
        mid_channels: Channels of the two inner convolutions.
        initial_variance: The variance before training.
        epsilon: The least variance.
    """

    def __init__(
        self, channels: int, mid_channels: int, initial_variance: float, epsilon: float
    ) -> None:
        super().__init__(dtype="float32", name="gaussian_regressor")
        self.supports_masking = True
        self.epsilon = epsilon
        self.initial_variance = initial_variance
        widths = [(mid_channels, "relu"), (mid_channels, "relu"), (channels, None)]
        self.convolutions = [
            keras.layers.Dense(
                width,
                activation=activation,
                use_bias=False,
                kernel_initializer=torch_default(),
                dtype="float32",
            )
            for width, activation in widths
        ]

    def build(self, input_shape: Shape) -> None:
        """Make the variables for a student's feature of this shape."""
        shape = input_shape
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = (*shape[:-1], convolution.units)
        start = math.log(math.expm1(self.initial_variance - self.epsilon))
        self.scale = self.add_weight(
            shape=(shape[-1],), initializer=keras.initializers.Constant(start), name="scale"
        )
        self.built = True

    def call(self, student: Any) -> tuple[Any, Any]:
        """Return the mean `[..., channels]` and the variance `[channels]`."""
        mean = student
        for convolution in self.convolutions:
            mean = convolution(mean)
        return mean, ops.softplus(self.scale) + self.epsilon


@keras.saving.register_keras_serializable(package="keras_kd")
class VID(DistillationLoss):
    """Variational information distillation.

    A regressor on the student's feature predicts the teacher's as a Gaussian: the mean by three 1x1
    convolutions, one variance per channel. The loss is its negative log-likelihood,
    `mean of 1/2 ((m - t)^2 / variance + log variance)` over all elements; it may be negative. The
    regressor is trained with the student and is not part of it. The channels need not agree;
    of two maps the larger is first average-pooled to the sides of the smaller. Padding of a
    sequence does not count.

    Args:
        mid_channels: Channels of the two inner convolutions. Defaults to `None`, the teacher's.
        initial_variance: The variance before training, above `epsilon`. Defaults to `5.0`.
        epsilon: The least variance. Defaults to `1e-5`.
        name: Name of the loss. Defaults to `"vid"`.

    Raises:
        ValueError: If an argument is not above 0; when called, if the loss is not built.

    Example:

    ```python
    hint = keras_kd.Hint("block3", "block2", loss=keras_kd.losses.VID())
    ```

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge Transfer, 2019,
        arXiv:1904.05835; the regressor is RepDistiller's.
    """

    equal_shapes = False
    reads_features = True
    pools_maps = True

    def __init__(
        self,
        mid_channels: int | None = None,
        initial_variance: float = 5.0,
        epsilon: float = 1e-5,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.epsilon = number("epsilon", epsilon, above=0, owner="VID")
        self.initial_variance = number(
            "initial_variance",
            initial_variance,
            above=epsilon,
            owner="VID",
            advice="It must be above `epsilon`.",
        )
        self.mid_channels = number(
            "mid_channels", mid_channels, least=1, whole=True, optional=True, owner="VID"
        )

    def build(self, teacher_shape: Shape, student_shape: Shape) -> None:
        """Make the regressor.

        Args:
            teacher_shape: Shape of the teacher's feature, batch first, channels known.
            student_shape: Shape of the student's feature, likewise.
        """
        channels = number_of_channels("VID", teacher_shape, "teacher")
        number_of_channels("VID", student_shape, "student")
        self.parameters = GaussianRegressor(
            channels, self.mid_channels or channels, self.initial_variance, self.epsilon
        )
        self.parameters.build(tuple(student_shape))

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the negative log-likelihood at each position, `[batch, ...]`."""
        regressor = built_parameters(self)
        mean, variance = (ops.cast(x, student.dtype) for x in regressor(student))
        return negative_log_likelihood(teacher, mean, variance)
