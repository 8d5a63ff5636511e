"""The arguments of Prune, checked."""

from __future__ import annotations

from typing import Any

from keras_kd.system.arguments import number

_DEFAULT_SPARSITY = 0.5


def check_prune_arguments(
    sparsity: Any,
    begin: Any,
    end: Any,
    frequency: Any,
    scope: Any,
    max_layer_sparsity: Any,
    block_size: Any,
    block_pooling_type: Any,
    sparsity_m_by_n: Any,
) -> tuple[float, tuple[int, int], tuple[int, int] | None]:
    """Check the arguments of `Prune`, which describes them.

    Returns:
        The sparsity, the block size, and the zeros in each group of weights or `None`.

    Raises:
        ValueError: If one is out of range, or two exclude each other.
    """
    number(
        "sparsity",
        sparsity,
        least=0,
        below=1,
        owner="Prune",
        advice="It is the fraction of zeros: for three zeros in four weights write Prune(0.75).",
    )
    number("end", end, least=0, most=1, owner="Prune", advice="It is a fraction of the training.")
    number(
        "begin",
        begin,
        least=0,
        most=end,
        owner="Prune",
        advice="It is a fraction of the training, not above `end`.",
    )
    number("frequency", frequency, least=1, whole=True, optional=True, owner="Prune")
    if block_pooling_type not in ("AVG", "MAX"):
        raise ValueError(
            f'Prune: `block_pooling_type` must be "AVG" or "MAX", but received '
            f"{block_pooling_type!r}."
        )
    block = _two_integers("block_size", block_size, "(1, 4)")
    m_by_n = None
    if sparsity_m_by_n is not None:
        m_by_n = _two_integers("sparsity_m_by_n", sparsity_m_by_n, "(2, 4)")
        sparsity = _check_m_by_n(m_by_n, block, sparsity)
    _check_scope(scope, max_layer_sparsity, sparsity, block, m_by_n)
    return float(sparsity), block, m_by_n


def _check_m_by_n(m_by_n: tuple[int, int], block: tuple[int, int], sparsity: float) -> float:
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


def _check_scope(
    scope: Any,
    ceiling: Any,
    sparsity: float,
    block: tuple[int, int],
    m_by_n: tuple[int, int] | None,
) -> None:
    if scope not in ("layer", "global"):
        raise ValueError(f'Prune: `scope` must be "layer" or "global", but received {scope!r}.')
    if scope == "global" and (block != (1, 1) or m_by_n is not None):
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
        least=sparsity,
        most=1,
        owner="Prune",
        advice=f"Below sparsity={sparsity} the sparsity could not be reached.",
    )


def _two_integers(argument: str, value: Any, example: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair):
        raise ValueError(
            f"Prune: `{argument}` must be two whole numbers of at least 1, such as {example}, but "
            f"received {value!r}."
        )
    return pair
