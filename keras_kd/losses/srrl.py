"""SRRL: the student's feature read by the teacher's classifier."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.fitnet import squared_difference
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.feature_maps import flatten_sides
from keras_kd.losses.shared.masks import zero_masked
from keras_kd.losses.shared.parameters import Shape, built_parameters, number_of_channels
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample
from keras_kd.system.arguments import number


class SoftmaxRegression(keras.layers.Layer):
    """A connector from the student's feature to the teacher's, and the teacher's frozen classifier.

    Args:
        channels: Channels of the teacher's feature.
        classifier: The teacher's classifier; it is copied, without its activation.
    """

    def __init__(self, channels: int, classifier: keras.layers.Dense) -> None:
        super().__init__(dtype="float32", name="softmax_regression")
        self.channels = channels
        self.connector = keras.layers.Dense(
            channels,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out"),
            dtype="float32",
            name="connector",
        )
        self.norm = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, dtype="float32")
        self.classifier = keras.layers.Dense(
            classifier.units, use_bias=classifier.use_bias, dtype="float32", name="classifier"
        )
        self.classifier.trainable = False
        self._weights_to_copy = [ops.convert_to_numpy(w) for w in classifier.get_weights()]

    def build(self, input_shape: Shape) -> None:
        """Make the variables for a student's feature of this shape, and copy the classifier's."""
        self.connector.build(input_shape)
        self.norm.build((*input_shape[:-1], self.channels))
        self.classifier.build((None, self.channels))
        for variable, copied in zip(self.classifier.weights, self._weights_to_copy, strict=True):
            variable.assign(copied)
        self.built = True

    def call(self, student: Any, kept: Any = None) -> Any:
        """Return the student's feature in the teacher's channels.

        Args:
            student: The student's feature.
            kept: The positions that count in the statistics, of the shape of the feature without
                channels. Defaults to `None`, all of them.
        """
        # Statistics are the batch's own: the connector is used in training only.
        return ops.relu(self.norm(self.connector(student), training=True, mask=kept))


@keras.saving.register_keras_serializable(package="keras_kd")
class SRRL(DistillationLoss):
    """Softmax regression representation learning.

    The student's last feature passes through a trained connector (a 1x1 convolution, batch
    normalization and ReLU), is averaged over positions and classified by the teacher's own frozen
    classifier: the mean squared difference to the teacher's logits asks the student for features
    that the teacher's classifier reads well. The mean squared difference of the averaged features
    is added. Both have the weight 1 in published code. The connector is not part of the
    student. Masked positions of a sequence count neither in the averages nor in the statistics.

    The classifier is copied when the hint is built. A saved loss holds its shape; its weights
    are saved with the distiller.

    Args:
        classifier: The teacher's last layer, a `keras.layers.Dense` behind global average pooling.
        feature_weight: Weight of the features' term. Defaults to `1.0`.
        name: Name of the loss. Defaults to `"srrl"`.

    Raises:
        TypeError: If `classifier` is not a built `keras.layers.Dense`.
        ValueError: When built, if the classifier reads another number of channels than the
            teacher's feature has.

    Example:

    ```python
    hint = keras_kd.Hint(
        "block4_out", "block2_out", loss=keras_kd.losses.SRRL(teacher.get_layer("logits"))
    )
    ```

    Reference:
        Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR
        2021 (openreview.net/forum?id=ZzwDy_wiWv).
    """

    equal_shapes = False
    reads_features = True
    masks_of_sides = True

    def __init__(
        self,
        classifier: keras.layers.Dense,
        feature_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not isinstance(classifier, keras.layers.Dense) or not classifier.built:
            raise TypeError(
                "SRRL reads the student's feature with the teacher's last layer, a built "
                f"keras.layers.Dense. Received: classifier={classifier!r}. Pass "
                'teacher.get_layer("name").'
            )
        self.classifier = classifier
        self.feature_weight = number("feature_weight", feature_weight, least=0, owner="SRRL")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, the classifier without its weights."""
        made = keras.layers.Dense(
            self.classifier.units, use_bias=self.classifier.use_bias, name=self.classifier.name
        )
        config = keras.saving.serialize_keras_object(made)
        config["build_config"] = {"input_shape": (None, self.classifier.kernel.shape[0])}
        return {**super().get_config(), "classifier": config}

    def fresh(self) -> SRRL:
        """Return a loss with the same classifier, its weights included."""
        kept = self.classifier if self.parameters is None else self.parameters.classifier
        return SRRL(kept, self.feature_weight, self.name)

    def build(self, teacher_shape: Shape, student_shape: Shape) -> None:
        """Make the connector and copy the classifier.

        Args:
            teacher_shape: Shape of the teacher's feature, batch first, channels known.
            student_shape: Shape of the student's feature, likewise.
        """
        channels = number_of_channels("SRRL", teacher_shape, "teacher")
        width = number_of_channels("SRRL", student_shape, "student")
        if self.classifier.kernel.shape[0] != channels:
            raise ValueError(
                f"SRRL: the classifier reads {self.classifier.kernel.shape[0]} channels, but the "
                f"teacher's feature has {channels}. Received: teacher_shape={teacher_shape}. Name "
                "the teacher's last layer before the classifier, or before the global pooling."
            )
        parameters = SoftmaxRegression(channels, self.classifier)
        parameters.build((*(None,) * (len(student_shape) - 1), width))
        self.parameters = parameters

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over samples, masked positions left out."""
        values = self._values(teacher, student, mask)
        if sample_weight is not None:
            sample_weight = weights_by_sample(sample_weight, values)
        return weighted_mean(values, sample_weight)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample, `[batch]`."""
        return self._values(teacher, student, (None, None))

    def _values(self, teacher: Any, student: Any, mask: Any) -> Any:
        parameters = built_parameters(self)
        dtype = student.dtype
        of_teacher, of_student = mask
        if len(student.shape) == 2:
            of_student = None
        kept = None if of_student is None else _kept(student, of_student)
        student = ops.cast(parameters(zero_masked(student, of_student), kept=kept), dtype)
        teacher, student = _averaged(teacher, of_teacher), _averaged(student, of_student)
        logits = [ops.cast(parameters.classifier(x), dtype) for x in (teacher, student)]
        return squared_difference(*logits) + self.feature_weight * squared_difference(
            teacher, student
        )


def _kept(feature: Any, mask: Any) -> Any:
    """Return where `mask` keeps positions, `[batch, positions...]`; all if it is of others."""
    return zero_masked(ops.ones_like(feature[..., :1]), mask)[..., 0]


def _averaged(feature: Any, mask: Any) -> Any:
    if len(feature.shape) == 2:
        return feature
    if mask is None:
        return ops.mean(flatten_sides(feature), axis=1)
    positions = tuple(range(1, len(feature.shape) - 1))
    total = ops.sum(zero_masked(feature, mask), axis=positions)
    return total / ops.maximum(ops.sum(_kept(feature, mask)[..., None], axis=positions), 1)
