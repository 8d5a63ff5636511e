"""KLDivergence: the teacher's softened class probabilities as targets."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.soft_targets import SoftTargetsLoss, kl_of_logs


def kl_divergence(teacher: Any, student: Any, temperature: float = 4.0) -> Any:
    """Return `T^2 * sum_c p_t (log p_t - log p_s)` with `p = softmax(logits / T)`.

    Args:
        teacher: Logits of the teacher, `[..., classes]`.
        student: Logits of the student, `[..., classes]`.
        temperature: `T`. Defaults to `4.0`.

    Returns:
        Tensor `[...]`, in nats times `T^2`.
    """
    log_teacher = ops.log_softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    return temperature**2 * kl_of_logs(log_teacher, log_student)


@keras.saving.register_keras_serializable(package="keras_kd")
class KLDivergence(SoftTargetsLoss):
    """Kullback-Leibler divergence of the student's softened predictions from the teacher's.

    `T^2 * mean_b sum_c p_t (log p_t - log p_s)`, both `p = softmax(logits / T)`. The temperature
    shows how the teacher ranks the wrong classes. Softening divides the gradient by about `T^2`;
    the factor `T^2` keeps it comparable with that of the loss on labels when `T` changes. It is
    computed from log-softmax, and so is exact on logits of any size.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `4.0`.
        from_logits: Whether the outputs are logits; probabilities otherwise, which are softened as
            `softmax(log p / T)`. Defaults to `True`.
        name: Name of the loss. Defaults to `"kl_divergence"`.
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
    loss = keras_kd.losses.KLDivergence(temperature=4.0)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Soft labels without ground truth, from the teacher alone:

    ```python
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.losses.KLDivergence(), student_loss_weight=0.0
    )
    distiller.compile("adam")
    distiller.fit(images, epochs=10)
    ```

    Segmentation, each pixel taught (logits `[batch, height, width, classes]`), and tokens, each
    taught but the padding (logits `[batch, time, classes]` with the mask of
    `Embedding(mask_zero=True)`), are trained as any classifier is:

    ```python
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.losses.KLDivergence(2.0), student_loss_weight=0.1
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(images, class_of_each_pixel, epochs=10)
    ```

    A rare class, weighted in the distillation and in the loss on labels:

    ```python
    distiller.fit(images, labels, class_weight={0: 1.0, 1: 19.0}, epochs=10)
    ```

    and in the distillation alone:

    ```python
    loss = keras_kd.losses.KLDivergence(class_weight={1: 19.0})
    ```

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the divergence of each sample or position, `[batch, ...]`."""
        return kl_divergence(teacher, student, self.temperature)
