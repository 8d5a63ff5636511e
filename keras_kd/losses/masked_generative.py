"""MaskedGenerative: the teacher's map generated from a masked map of the student."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss
from keras_kd.losses.shared.masks import zero_masked
from keras_kd.losses.shared.parameters import (
    Shape,
    built_parameters,
    number_of_channels,
    torch_default,
    torch_default_bias,
)
from keras_kd.losses.shared.phase import is_training
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample
from keras_kd.system.arguments import number


class Generator(keras.layers.Layer):
    """Masks a student's map at random positions and generates the teacher's from it.

    A 1x1 convolution aligns the channels where they differ; two 3x3 convolutions with a ReLU
    between them generate.

    Args:
        channels: Channels of the teacher's map.
        mask_ratio: Probability of a position to be masked.
        seed: Seed of the masks.
    """

    def __init__(self, channels: int, mask_ratio: float, seed: int | None) -> None:
        super().__init__(dtype="float32", name="generator")
        self.channels = channels
        self.mask_ratio = mask_ratio
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Shape) -> None:
        """Make the variables for a student's map of this shape."""
        kinds = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
        rank, width = len(input_shape), input_shape[-1]
        self.align, self.first, self.second = (
            kinds[rank](
                self.channels,
                side,
                padding="same",
                activation=activation,
                kernel_initializer=torch_default(),
                bias_initializer=torch_default_bias(side ** (rank - 2) * fan_in),
                dtype="float32",
                name=name,
            )
            for name, side, fan_in, activation in (
                ("align", 1, width, None),
                ("first", 3, self.channels, "relu"),
                ("second", 3, self.channels, None),
            )
        )
        aligned = (*input_shape[:-1], self.channels)
        if width == self.channels:
            self.align = None
        else:
            self.align.build(input_shape)
        self.first.build(aligned)
        self.second.build(aligned)
        self.built = True

    def draw_kept(self, shape: Any) -> Any:
        """Draw which positions are kept: ones and zeros of `shape`."""
        drawn = keras.random.uniform(shape, seed=self.seed_generator if is_training() else 0)
        return ops.cast(drawn >= self.mask_ratio, "float32")

    def call(self, student: Any) -> Any:
        """Return the generated map of the teacher, `[batch, side_1, ..., channels]`."""
        x = student if self.align is None else self.align(student)
        kept = self.draw_kept((*ops.shape(x)[:-1], 1))
        return self.second(self.first(x * kept))


@keras.saving.register_keras_serializable(package="keras_kd")
class MaskedGenerative(MapLoss):
    """Masked generative distillation.

    Random positions of the student's map are set to zero, the same for all channels; two
    convolutions, trained with the student but not part of it, must generate the teacher's
    map from the rest. The loss is `scale` times the sum of squared differences, averaged over the
    batch, as in the authors' code for detection and segmentation. For classification that code
    masks channels instead, with a ratio of 0.15 and a scale of `7e-5`; the paper masks positions.

    The masks follow `seed` and are saved with the distiller: a resumed training draws the same.
    In evaluation the same masks are drawn each time.
    Maps of different size are average-pooled to the smaller one. Padding of a sequence does not
    count.

    Args:
        mask_ratio: Probability of a position to be masked, from 0 to below 1. Defaults to `0.65`.
        scale: Factor of the loss. Defaults to `2e-5`.
        seed: Seed of the masks. Defaults to `None`, Keras's global seed.
        name: Name of the loss. Defaults to `"masked_generative"`.

    Raises:
        ValueError: If an argument is out of range; when called, if the loss is not built or a
            feature is not a map.

    Example:

    ```python
    hint = keras_kd.Hint("fpn_p4", "fpn_p4", loss=keras_kd.losses.MaskedGenerative(seed=0))
    ```

    Reference:
        Yang et al., Masked Generative Distillation, 2022, arXiv:2205.01529.
    """

    equal_shapes = False
    mixes_positions = False
    pools_maps = True

    def __init__(
        self,
        mask_ratio: float = 0.65,
        scale: float = 2e-5,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        owner = "MaskedGenerative"
        self.mask_ratio = number("mask_ratio", mask_ratio, least=0, below=1, owner=owner)
        self.scale = number("scale", scale, above=0, owner=owner)
        self.seed = seed

    def build(self, teacher_shape: Shape, student_shape: Shape) -> None:
        """Make the generator.

        Args:
            teacher_shape: Shape of the teacher's map, batch first, channels known.
            student_shape: Shape of the student's map, likewise.
        """
        channels = number_of_channels("MaskedGenerative", teacher_shape, "teacher")
        width = number_of_channels("MaskedGenerative", student_shape, "student")
        if not 3 <= len(student_shape) <= 5:
            raise ValueError(
                "MaskedGenerative compares feature maps of one to three sides. Received: a "
                f"student's feature of shape {tuple(student_shape)}. Name a layer before pooling."
            )
        parameters = Generator(channels, self.mask_ratio, self.seed)
        parameters.build((*(None,) * (len(student_shape) - 1), width))
        self.parameters = parameters

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over samples, masked positions left out."""
        if mask is not None:
            student = zero_masked(student, mask)
        differences = self._differences(teacher, student)
        if mask is not None:
            differences = zero_masked(differences, mask)
        values = _sum_of_sample(differences)
        if sample_weight is not None:
            sample_weight = weights_by_sample(sample_weight, values)
        return weighted_mean(values, sample_weight)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        return _sum_of_sample(self._differences(teacher, student))

    def _differences(self, teacher: Any, student: Any) -> Any:
        generator = built_parameters(self)
        return self.scale * ops.square(ops.cast(generator(student), student.dtype) - teacher)


def _sum_of_sample(x: Any) -> Any:
    return ops.sum(x, axis=tuple(range(1, len(x.shape))))
