"""MultiLevel: predictions compared at several temperatures and as relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.logits import LogitsLoss
from keras_kd.losses.shared.pairwise import gram
from keras_kd.losses.shared.weighting import spread, weighted_mean
from keras_kd.system.arguments import number


@keras.saving.register_keras_serializable(package="keras_kd")
class MultiLevel(LogitsLoss):
    """Multi-level logit distillation: samples, batch and classes at several temperatures.

    For each temperature `T`, with `p = softmax(logits / T)` as the matrix `[batch, classes]`, the
    sum of `T^2 * KL(p_t, p_s)`, averaged over the batch; the squared differences of the relations
    between samples, `|p_t p_t' - p_s p_s'|^2 / batch`; and of those between classes,
    `|p_t' p_t - p_s' p_s|^2 / classes`. With `standardize=True` it is the strongest loss on logits
    of the logit standardization paper (CIFAR-100, resnet32x4 to resnet8x4: 78.28 %).

    The authors' code trains on a weakly and a strongly augmented view at once, and masks of
    confident samples and classes halve terms of the weak one. Here there is one view and no mask.

    Positions of sequence and dense outputs are rows: the relations of samples then have
    `(batch * positions)^2` entries. Sample weights `w` weigh rows: pairs by `w_i w_j`, the
    relations of classes as the sum of `w p p'`.

    Args:
        temperatures: The temperatures, each above 0. Defaults to `(2.0, 3.0, 4.0, 5.0, 6.0)`.
        from_logits: Whether the outputs are logits; probabilities otherwise. Defaults to `True`.
        name: Name of the loss. Defaults to `"multi_level"`.
        class_weight: Weight of a sample by the class of its label, `{class: weight}` or one per
            class. It weighs this loss alone and needs labels. Defaults to `None`.
        standardize: Whether the mean and the spread of each row of logits are removed first, as
            `StandardizedKL` does. Defaults to `False`.

    Raises:
        ValueError: If there is no temperature, or one is not above 0.

    Example:

    ```python
    loss = keras_kd.losses.MultiLevel(standardize=True)
    loss(teacher_logits, student_logits)  # both [batch, ..., classes]
    ```

    Reference:
        Jin et al., Multi-Level Logit Distillation, CVPR 2023; Sun et al., Logit Standardization in
        Knowledge Distillation, 2024, arXiv:2403.01427.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(from_logits, name, class_weight, standardize)
        received = [*temperatures] if isinstance(temperatures, (list, tuple)) else []
        if not received:
            raise ValueError(
                "MultiLevel: `temperatures` must be numbers above 0. Received: "
                f"temperatures={temperatures!r}. Pass temperatures=(2.0, 4.0)."
            )
        self.temperatures = [
            number("temperatures", value, above=0, owner="MultiLevel") for value in received
        ]

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the sum of the three terms over the temperatures."""
        teacher, student = self.as_logits(teacher), self.as_logits(student)
        weights = ops.ones_like(student[..., 0])
        rows = ops.cast(ops.maximum(ops.size(weights), 1), student.dtype)
        for name, part in (("mask", mask), ("sample_weight", sample_weight)):
            if part is not None:
                part = ops.cast(ops.convert_to_tensor(part), student.dtype)
                weights = weights * spread(part, weights, name)
                if name == "mask":
                    rows = ops.maximum(ops.sum(weights), 1)
        roots = ops.expand_dims(ops.sqrt(ops.reshape(weights, (-1,))), -1)
        classes = student.shape[-1]
        total = 0.0
        for temperature in self.temperatures:
            kl = weighted_mean(kl_divergence(teacher, student, temperature), sample_weight, mask)
            t, s = (
                roots * ops.reshape(ops.softmax(x / temperature), (-1, classes))
                for x in (teacher, student)
            )
            of_batch = ops.sum(ops.square(gram(t) - gram(s))) / rows
            of_classes = ops.sum(ops.square(gram(ops.transpose(t)) - gram(ops.transpose(s))))
            total = total + kl + of_batch + of_classes / classes
        return total
