"""BinaryKLDivergence: the teacher's softened label probabilities, each label for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.logits import TemperatureLoss, log_probabilities


def bernoulli_kl(teacher: Any, student: Any) -> Any:
    """Return the divergence of `Bernoulli(sigmoid(student))` from the teacher's, by element.

    Args:
        teacher: Logits of the teacher.
        student: Logits of the student.

    Returns:
        Tensor of the same shape, in nats.
    """
    yes = ops.sigmoid(teacher) * (ops.log_sigmoid(teacher) - ops.log_sigmoid(student))
    no = ops.sigmoid(-teacher) * (ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student))
    return yes + no


def binary_kl_divergence(
    teacher: Any, student: Any, temperature: float = 4.0, weights: Any = 1.0
) -> Any:
    """Return `T^2 * sum_l w_l KL(Bernoulli(sigmoid(t_l / T)), Bernoulli(sigmoid(s_l / T)))`.

    Args:
        teacher: Logits of the teacher, `[..., labels]`.
        student: Logits of the student, `[..., labels]`.
        temperature: `T`. Defaults to `4.0`.
        weights: `w`, `[labels]`. Defaults to `1.0`.

    Returns:
        Tensor `[...]`.
    """
    divergence = bernoulli_kl(teacher / temperature, student / temperature)
    return temperature**2 * ops.sum(weights * divergence, axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class BinaryKLDivergence(TemperatureLoss):
    """Kullback-Leibler divergence for sigmoid outputs: binary and multi-label.

    Each label is a Bernoulli variable of probability `sigmoid(logit / T)`; its divergence from the
    teacher's is summed over labels, averaged over the batch and multiplied by `T^2`.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `4.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"binary_kl_divergence"`.
        class_weight: Weight of each output's divergence, `{output: weight}` or one per output; no
            labels are needed. Defaults to `None`.

    Raises:
        ValueError: If `temperature` is not above 0.

    Example:

    ```python
    distiller = keras_kd.Distiller(
        teacher,
        student,
        keras_kd.losses.BinaryKLDivergence(temperature=2.0),
        student_loss_weight=0.1,
    )
    distiller.compile("adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    distiller.fit(x, y, epochs=10)  # y: [batch, labels], 0.0 or 1.0
    ```

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; over
        labels instead of classes.
    """

    multi_label = True

    def __init__(
        self,
        temperature: float = 4.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
    ) -> None:
        # Sigmoids depend on the mean of the logits: there is no `standardize`.
        super().__init__(temperature, from_logits, name, class_weight)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse outputs of unequal shapes; a single label is allowed."""
        DistillationLoss.check_shapes(self, teacher, student)

    def as_logits(self, outputs: Any) -> Any:
        """Return `outputs` as logits: `log p - log(1 - p)` where they are probabilities."""
        if self.from_logits:
            return outputs
        return log_probabilities(outputs) - log_probabilities(1.0 - outputs)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        if len(student.shape) < 2:
            teacher, student = ops.expand_dims(teacher, -1), ops.expand_dims(student, -1)
        weights: Any = 1.0
        if self.class_weight is not None:
            weights = ops.cast(self.weights_of_classes(student.shape[-1]), student.dtype)
        return binary_kl_divergence(
            self.as_logits(teacher), self.as_logits(student), self.temperature, weights
        )
