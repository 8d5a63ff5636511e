"""The list of stages that is given to `compress`, and its order: one rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_kd.compression.stages.stage import Stage, check_name

# A stage may follow those above it. Each stands with why it cannot come after those below it.
_ORDER = {
    "Shrink": "removes channels and trains what is left, and undoes what the earlier stage did "
    "to single weights",
    "LowRank": "replaces kernels by products of smaller ones, in which the zeros, the shared "
    "values or the 8 bits of the old kernels are lost",
    "Prune": "sets weights to zero, and undoes what the earlier stage did to single weights",
    "Cluster": "moves weights to shared values, which would no longer be those trained for 8 bits",
    "QuantizeAware": "fixes how the weights are stored, and is the last stage",
}
_ONCE = {
    "LowRank": "factors are not factorized again. Keep one, with the rank of both.",
    "QuantizeAware": "the weights are trained for 8 bits already. Keep one, as the last stage, "
    "with more `epochs`.",
    "Cluster": "the weights share their values already. Keep one, with the smaller number of "
    "clusters.",
}


def check_stages(stages: Any) -> list[Stage]:
    """Return the stages as a list.

    Args:
        stages: A stage, or some.

    Raises:
        TypeError: If an item is not a stage.
        ValueError: If there is none, or two have one name or one that is a path.
    """
    if isinstance(stages, Stage) or not isinstance(stages, Iterable | None):
        stages = [stages]
    stages = list(stages or [])
    if not stages:
        raise ValueError(
            "`stages` is empty: there is nothing to do. Give at least one stage, such as "
            "stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)]."
        )
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(
                "`stages` takes stages such as keras_kd.Prune(0.75, epochs=4). Received: "
                f"{stage!r}."
            )
    names = [check_name(stage.name) for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two stages are named '{name}': the history could not tell them apart. Give one "
                f'another name: {type(stages[names.index(name)]).__name__}(..., name="{name}_2").'
            )
    return stages


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse stages in an order that makes no sense.

    The order is Shrink, LowRank, Prune, Cluster, QuantizeAware; any of them may be left out.
    Nothing follows QuantizeAware. Your own stage, derived from `Stage`, may come anywhere
    else.

    Args:
        stages: The stages as they are to run.

    Raises:
        ValueError: If a stage would undo what an earlier one did; the message gives the order to
            write.
    """
    order = list(_ORDER)
    for i, stage in enumerate(stages):
        kind = _kind(stage)
        name = type(stage).__name__
        for earlier in stages[:i]:
            other = _kind(earlier)
            if kind is None:
                if other == order[-1]:
                    raise ValueError(
                        f"{name} cannot follow {type(earlier).__name__}, which {_ORDER[other]}. "
                        f"Write {_sorted_text(stages)}."
                    )
            elif other == kind and kind in _ONCE:
                raise ValueError(f"{name} appears twice in `stages`: {_ONCE[kind]}")
            elif other is not None and order.index(kind) < order.index(other):
                raise ValueError(
                    f"{name} cannot follow {type(earlier).__name__}: it {_ORDER[kind]}. "
                    f"Write {_sorted_text(stages)}."
                )


def _kind(stage: Any) -> str | None:
    return next((c.__name__ for c in type(stage).__mro__ if c.__name__ in _ORDER), None)


def _sorted_text(stages: Sequence[Any]) -> str:
    order = list(_ORDER)
    ranks: list[float] = []
    for stage in stages:
        kind = _kind(stage)
        # A user's stage keeps its place behind the one before it.
        rank: float = order.index(kind) if kind else (ranks[-1] if ranks else 0)
        ranks.append(rank if kind else min(rank, len(order) - 1.5))
    ordered = [stage for _, stage in sorted(zip(ranks, stages, strict=True), key=lambda r: r[0])]
    return f"stages=[{', '.join(f'{type(stage).__name__}(...)' for stage in ordered)}]"
