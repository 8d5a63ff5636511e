"""TopKLogits: the largest logits of a teacher, and the mass of all the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras import ops

from keras_kd.system.arguments import number


class TopKLogits(NamedTuple):
    """A teacher's `k` largest logits, with the mass of the other classes kept as one number.

    It takes the place of the teacher's logits, `[batch, ..., classes]`, in `KLDivergence` and
    `SoftCrossEntropy`, and needs `2 k + 1` numbers a position instead of `classes`. Made by
    `top_k_logits`.

    Attributes:
        values: The logits, largest first, `[batch, ..., k]`.
        indices: The classes they belong to, int32, `[batch, ..., k]`.
        rest: `log sum exp(logit / temperature)` over the other classes, float32, `[batch, ...]`;
            `-inf` where there are none.
        temperature: The temperature that `rest` was computed with, float32, `[batch]`. A loss of
            another temperature cannot use it.
    """

    values: Any
    indices: Any
    rest: Any
    temperature: Any


def has_top_k(outputs: Any) -> bool:
    """Return whether there are top-k logits among outputs."""
    if isinstance(outputs, TopKLogits):
        return True
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    return isinstance(outputs, (Mapping, list, tuple)) and any(map(has_top_k, parts))


def top_k_logits(logits: Any, k: int, temperature: float) -> TopKLogits:
    """Return the `k` largest logits of each position and the mass of the other classes.

    The mass is summed over the other classes themselves, in float32 and in log space: nothing is
    lost to cancellation where it is tiny.

    Args:
        logits: `[batch, ..., classes]`; of probabilities, give the logarithm.
        k: Number of logits to keep, from 1 to the number of classes.
        temperature: Temperature of the loss that will read them.

    Returns:
        A `TopKLogits`; `values` are float32.

    Raises:
        ValueError: If `k` or `temperature` is out of range, or the classes have no fixed number.

    Example:

    ```python
    taught = keras_kd.losses.top_k_logits(teacher(tokens), k=32, temperature=2.0)
    keras_kd.losses.KLDivergence(temperature=2.0)(taught, student(tokens))
    ```
    """
    number("temperature", temperature, above=0, owner="top_k_logits")
    logits = ops.cast(ops.convert_to_tensor(logits), "float32")
    classes = logits.shape[-1] if len(logits.shape) >= 2 else None
    if classes is None:
        raise ValueError(
            "top_k_logits takes logits of shape [batch, ..., classes] with a fixed number of "
            f"classes. Received: shape {tuple(logits.shape)}."
        )
    number(
        "k",
        k,
        least=1,
        most=classes,
        whole=True,
        owner="top_k_logits",
        advice=f"There are {classes} classes.",
    )
    values, indices = ops.top_k(logits, k, sorted=True)
    indices = ops.cast(indices, "int32")
    rest = log_sum_exp_of_others(logits / temperature, indices)
    batch = ops.shape(logits)[:1]
    return TopKLogits(values, indices, rest, ops.full(batch, temperature, "float32"))


def log_sum_exp_of_others(logits: Any, indices: Any) -> Any:
    """Return `log sum exp(logits)` over the classes that are not in `indices`.

    Args:
        logits: `[..., classes]`.
        indices: Different classes, `[..., k]`.

    Returns:
        Tensor `[...]`; `-inf` where no class is left.
    """
    classes, k = logits.shape[-1], indices.shape[-1]
    rows = ops.reshape(logits, (-1, classes))
    row = ops.repeat(ops.arange(ops.shape(rows)[0], dtype="int32"), k)
    named = ops.stack([row, ops.reshape(indices, (-1,))], axis=-1)
    absent = ops.full(ops.shape(row), -float("inf"), dtype=logits.dtype)
    others = ops.scatter_update(rows, named, absent)
    return ops.reshape(ops.logsumexp(others, axis=-1), ops.shape(logits)[:-1])
