"""SimilarityPreserving: which samples of a batch activate the model alike."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.norms import l2_normalize
from keras_kd.losses.shared.pairwise import gram
from keras_kd.losses.shared.relation import RelationLoss, flatten


def similarity_preserving(teacher: Any, student: Any) -> Any:
    """Return the squared differences of the Gram matrices, their rows of length one.

    Args:
        teacher: Vectors of the teacher, `[batch, values]`.
        student: Vectors of the student, of any length.

    Returns:
        Tensor `[batch, batch]`.
    """
    return ops.square(l2_normalize(gram(teacher)) - l2_normalize(gram(student)))


@keras.saving.register_keras_serializable(package="keras_kd")
class SimilarityPreserving(RelationLoss):
    """Similarity-preserving distillation.

    The Gram matrix of the batch's flattened features, its rows divided by their norms, is
    compared: the squared Frobenius norm of the difference over `batch^2`. `sample_weight` weighs
    pairs, by `w_i w_j`.

    Args:
        name: Name of the loss. Defaults to `"similarity_preserving"`.

    Raises:
        ValueError: When called, if the batches differ in size.

    Example:

    ```python
    hint = keras_kd.Hint("block3", "block2", loss=keras_kd.losses.SimilarityPreserving())
    ```

    Reference:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv:1907.09682.
    """

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the value of each pair, `[batch, batch]`."""
        return similarity_preserving(flatten(teacher), flatten(student))
