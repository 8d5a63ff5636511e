"""SoftCrossEntropy: cross-entropy with the teacher's softened probabilities."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.soft_targets import SoftTargetsLoss


def soft_cross_entropy(teacher: Any, student: Any, temperature: float = 4.0) -> Any:
    """Return `-T^2 * sum_c p_t log p_s` with `p = softmax(logits / T)`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        temperature: `T`. Defaults to `4.0`.

    Returns:
        Tensor `[...]`.
    """
    targets = ops.softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    return -(temperature**2) * ops.sum(targets * log_student, axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class SoftCrossEntropy(SoftTargetsLoss):
    """Cross-entropy of the student's softened predictions under the teacher's.

    `T^2 * mean_b -sum_c p_t log p_s`, both `p = softmax(logits / T)`. It differs from
    `KLDivergence` by the teacher's entropy: the student's gradient is the same, but the least
    value is not zero.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `4.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"soft_cross_entropy"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        chunk_size: Number of positions (samples, pixels, tokens) that are treated at a time, for
            vocabularies whose logits fill the memory. In a `tf.function` the loss and its gradient
            then need, beside both tensors of logits, the student's gradient and about
            `32 * chunk_size * classes` bytes; the values stay the same. Not for
            `jit_compile=True`. Defaults to `None`, all at once.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0, `chunk_size` is not a whole number above 0, or
            a `TopKLogits` was made for another temperature.

    Example:

    ```python
    loss = keras_kd.losses.SoftCrossEntropy(temperature=4.0)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the cross-entropy of each sample or position, `[batch, ...]`."""
        return soft_cross_entropy(teacher, student, self.temperature)
