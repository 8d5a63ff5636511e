"""AttentionRelation: relations of queries, keys and values between positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.attention import AttentionLoss, scaled_products
from keras_kd.losses.shared.soft_targets import kl_of_logs
from keras_kd.system.arguments import number

_PARTS = "qkv"


@keras.saving.register_keras_serializable(package="keras_kd")
class AttentionRelation(AttentionLoss):
    """MiniLM's and MiniLMv2's self-attention relations.

    Queries, keys and values of teacher and student are split again into `heads` relation heads of
    width `d`, so that neither their widths nor their numbers of attention heads need agree. For
    each of `relations`, such as queries with queries, `softmax(A A' / sqrt(d))` over the positions
    is compared by the Kullback-Leibler divergence from the teacher's. The loss is the mean over
    relations, heads and positions; the papers add up the relations. Padding is left out.

    Args:
        heads: Number of relation heads; it divides all widths.
        relations: Pairs of `"q"`, `"k"` and `"v"`. `("qk", "vv")` with `heads` the number of
            attention heads is MiniLM. Defaults to `("qq", "kk", "vv")`, MiniLMv2.
        name: Name of the loss. Defaults to `"attention_relation"`.

    Raises:
        ValueError: If an argument is wrong; when called, if the shapes do not fit.

    Example:

    The last layer of both models, as MiniLM is trained:

    ```python
    hints = keras_kd.transformer_hints(
        teacher,
        student,
        layer_map={-1: -1},
        embeddings=False,
        hidden=False,
        attention=keras_kd.losses.AttentionRelation(heads=12),
    )
    ```

    By path, in a model of KerasHub:

    ```python
    def projections(block):
        attention = f"{block}/self_attention_layer"
        return [f"{attention}/{name}_dense" for name in ("query", "key", "value")]

    hint = keras_kd.Hint(
        projections("transformer_layer_11"),
        projections("transformer_layer_5"),
        loss=keras_kd.losses.AttentionRelation(heads=12),
    )
    ```

    Reference:
        Wang et al., MiniLM: Deep Self-Attention Distillation, 2020, arXiv:2002.10957; MiniLMv2:
        Multi-Head Self-Attention Relation Distillation, 2020, arXiv:2012.15828.
    """

    def __init__(
        self,
        heads: int,
        relations: Sequence[str] = ("qq", "kk", "vv"),
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.heads = number("heads", heads, least=1, whole=True, owner="AttentionRelation")
        self.relations = list(relations)
        if not self.relations or any(
            not isinstance(pair, str) or len(pair) != 2 or not set(pair) <= set(_PARTS)
            for pair in self.relations
        ):
            raise ValueError(
                'AttentionRelation: `relations` must be pairs of "q", "k" and "v". Received: '
                f'relations={relations!r}. Use ("qq", "kk", "vv").'
            )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse what is not queries, keys and values of widths that `heads` divides."""
        super().check_shapes(teacher, student)
        needed = 1 + max(_PARTS.index(part) for pair in self.relations for part in pair)
        if len(teacher) < needed:
            raise ValueError(
                f"AttentionRelation(relations={self.relations}) reads queries, keys and values, in "
                f"this order. Received: {len(teacher)} layers. Name all of them in the Hint."
            )
        for x in (*teacher, *student):
            width = _width(x)
            if width is None or width % self.heads:
                raise ValueError(
                    f"AttentionRelation: `heads` must divide the widths. Received: "
                    f"heads={self.heads}, a feature of shape {tuple(x.shape)}."
                )

    def compare(self, teacher: Any, student: Any, kept: Any) -> Any:
        """Return the divergence of each query, averaged over relations and heads."""
        sides = [[self._split(x) for x in side] for side in (teacher, student)]
        total = 0.0
        for pair in self.relations:
            first, second = pair[0], pair[1]
            logs = []
            for side in sides:
                products = scaled_products(side[_PARTS.index(first)], side[_PARTS.index(second)])
                if kept is not None:
                    # Finite: the difference of two infinite numbers is undefined.
                    products = ops.where(kept, products, ops.full_like(products, -1e30))
                logs.append(ops.log_softmax(products))
            total = total + ops.mean(kl_of_logs(*logs), axis=1)
        return total / len(self.relations)

    def _split(self, x: Any) -> Any:
        batch, time = ops.shape(x)[:2]
        return ops.reshape(x, (batch, time, self.heads, _width(x) // self.heads))


def _width(x: Any) -> Any:
    sides = x.shape[2:]
    return None if None in sides else sides[0] * (sides[1] if len(sides) > 1 else 1)
