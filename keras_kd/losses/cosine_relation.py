"""CosineRelation: cosine similarities between the samples of a batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.pairwise import cosine_similarities
from keras_kd.losses.shared.relation import RelationLoss, flatten


def cosine_relation(teacher: Any, student: Any) -> Any:
    """Return the squared differences of the cosine similarities.

    Args:
        teacher: Vectors of the teacher, `[batch, values]`.
        student: Vectors of the student, of any length.

    Returns:
        Tensor `[batch, batch]`.
    """
    return ops.square(cosine_similarities(teacher) - cosine_similarities(student))


@keras.saving.register_keras_serializable(package="keras_kd")
class CosineRelation(RelationLoss):
    """Squared difference of the batch's cosine-similarity matrices, averaged over pairs.

    `sample_weight` weighs pairs, by `w_i w_j`.

    Args:
        name: Name of the loss. Defaults to `"cosine_relation"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("embedding", "embedding", loss=keras_kd.losses.CosineRelation())
    ```

    Reference:
        In the manner of Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019,
        arXiv:1907.09682, and of Passalis and Tefas, 2018, arXiv:1803.10837.
    """

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the value of each pair, `[batch, batch]`."""
        return cosine_relation(flatten(teacher), flatten(student))
