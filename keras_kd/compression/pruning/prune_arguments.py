"""The arguments of Prune, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_kd.system.arguments import number

if TYPE_CHECKING:
    from keras_kd.compression.pruning.prune import Prune

_DEFAULT_SPARSITY = 0.5


def check_prune_arguments(prune: Prune) -> None:
    """Check the arguments of a `Prune`, which describes them, and give them their types.

    Raises:
        ValueError: If one is out of range, or two exclude each other.
    """
    number(
        "sparsity",
        prune.sparsity,
        least=0,
        below=1,
        owner="Prune",
        advice="It is the fraction of zeros: for three zeros in four weights write Prune(0.75).",
    )
    advice = "It is a fraction of the training"
    number("end", prune.end, least=0, most=1, owner="Prune", advice=f"{advice}.")
    number(
        "begin",
        prune.begin,
        least=0,
        most=prune.end,
        owner="Prune",
        advice=f"{advice}, not above `end`.",
    )
    number("frequency", prune.frequency, least=1, whole=True, optional=True, owner="Prune")
    if prune.block_pooling_type not in ("AVG", "MAX"):
        raise ValueError(
            'Prune: `block_pooling_type` must be "AVG" or "MAX", but received '
            f"{prune.block_pooling_type!r}."
        )
    prune.begin, prune.end = float(prune.begin), float(prune.end)
    prune.block_size = _two_integers("block_size", prune.block_size, "(1, 4)")
    if prune.sparsity_m_by_n is not None:
        prune.sparsity_m_by_n = _two_integers("sparsity_m_by_n", prune.sparsity_m_by_n, "(2, 4)")
        prune.sparsity = _check_m_by_n(prune.sparsity_m_by_n, prune.block_size, prune.sparsity)
    prune.sparsity = float(prune.sparsity)
    _check_scope(prune)


def _check_m_by_n(m_by_n: Sequence[int], block: Sequence[int], sparsity: float) -> float:
    zeros, group = m_by_n
    if zeros >= group:
        raise ValueError(
            f"Prune: `sparsity_m_by_n` is (zeros, group) with fewer zeros than weights in a group, "
            f"but received {m_by_n}. For two zeros in each four write (2, 4)."
        )
    if block != (1, 1):
        raise ValueError(
            f"Prune: `sparsity_m_by_n={m_by_n}` and `block_size={block}` are two patterns. Give "
            "one of them."
        )
    if sparsity not in (_DEFAULT_SPARSITY, zeros / group):
        raise ValueError(
            f"Prune: `sparsity_m_by_n={m_by_n}` is a sparsity of {zeros / group:g}, but `sparsity` "
            f"is {sparsity}. Leave `sparsity` out."
        )
    return zeros / group


def _check_scope(prune: Prune) -> None:
    scope, ceiling = prune.scope, prune.max_layer_sparsity
    if scope not in ("layer", "global"):
        raise ValueError(f'Prune: `scope` must be "layer" or "global", but received {scope!r}.')
    if scope == "global" and (prune.block_size != (1, 1) or prune.sparsity_m_by_n is not None):
        raise ValueError(
            'Prune: `scope="global"` compares single weights of all layers, which '
            '`block_size` and `sparsity_m_by_n` do not prune. Use scope="layer" with them.'
        )
    if ceiling is None:
        return
    if scope != "global":
        raise ValueError(
            'Prune: `max_layer_sparsity` bounds what scope="global" may take from one layer, but '
            f"`scope` is {scope!r}: every layer has the same sparsity. Leave it out."
        )
    number(
        "max_layer_sparsity",
        ceiling,
        least=prune.sparsity,
        most=1,
        owner="Prune",
        advice=f"Below sparsity={prune.sparsity} the sparsity could not be reached.",
    )


def _two_integers(argument: str, value: Any, example: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair):
        raise ValueError(
            f"Prune: `{argument}` must be two whole numbers of at least 1, such as {example}, but "
            f"received {value!r}."
        )
    return pair
