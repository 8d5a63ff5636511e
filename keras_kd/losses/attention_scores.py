"""AttentionScores: attention before its softmax, head by head."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.attention import AttentionLoss, scaled_products


@keras.saving.register_keras_serializable(package="keras_kd")
class AttentionScores(AttentionLoss):
    """TinyBERT's attention loss: squared differences of the scores before the softmax.

    The scores `q k' / sqrt(d)` of each head are compared; the mean is over heads, queries and keys.
    Teacher and student need the same number of heads, of any width. Padding is left out of the
    mean; the authors' code sets its scores to zero and counts it.

    The layers are the projections of queries and keys, `[batch, time, heads, width]`; values may be
    named as well and are not read. `keras_kd.transformer_hints` finds them.

    Args:
        name: Name of the loss. Defaults to `"attention_scores"`.

    Raises:
        ValueError: When called, if the shapes do not fit.

    Example:

    ```python
    hints = keras_kd.transformer_hints(teacher, student, layer_map="uniform")
    ```

    Reference:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2019,
        arXiv:1909.10351.
    """

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse what is not queries and keys of equally many heads."""
        super().check_shapes(teacher, student)
        shapes = [tuple(x.shape) for x in (*teacher[:2], *student[:2])]
        if len(teacher) < 2 or {len(shape) for shape in shapes} != {4}:
            raise ValueError(
                "AttentionScores reads queries and keys of shape [batch, time, heads, width]. "
                f"Received: {shapes}. Name the projections of the attention layers."
            )
        if len({shape[2] for shape in shapes}) > 1:
            raise ValueError(
                "AttentionScores compares head by head, but the numbers of heads differ. Received: "
                f"teacher {shapes[0]}, student {shapes[-1]}. Use AttentionRelation(heads=...)."
            )

    def compare(self, teacher: Any, student: Any, kept: Any) -> Any:
        """Return the mean squared difference of each query's scores, `[batch, time]`."""
        squares = ops.square(scaled_products(*teacher[:2]) - scaled_products(*student[:2]))
        if kept is None:
            return ops.mean(squares, axis=(1, 3))
        squares = ops.where(kept, squares, ops.zeros_like(squares))
        keys = ops.maximum(ops.sum(ops.cast(kept, squares.dtype), axis=-1), 1)
        return ops.mean(ops.sum(squares, axis=-1) / keys, axis=1)
