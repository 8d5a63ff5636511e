"""What may be asked of shrinking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_kd.compression.shrinking.importance import IMPORTANCES, REDUCTIONS
from keras_kd.compression.stages.layer_choice import LayerChoice
from keras_kd.system.arguments import number


@dataclasses.dataclass(frozen=True)
class ShrinkOptions:
    """The arguments that `shrink`, `shrink_plan` and `Shrink` share; see `shrink`.

    Raises:
        ValueError: If an argument is out of range, or no target is given.
        TypeError: If `layers` or `exclude` is of another kind than a name, names or a function.
    """

    ratio: float | None = None
    max_flops: float | None = None
    flops_ratio: float | None = None
    max_parameters: int | None = None
    importance: str = "l1"
    scope: str = "uniform"
    reduction: str = "mean"
    min_channels: int = 1
    layers: Any = None
    exclude: Any = None
    drop: str | Sequence[str] | None = None
    depth: float | None = None
    layer_norm: bool = False
    batches: int = 10

    def __post_init__(self) -> None:
        for name, removed in (("ratio", "channels"), ("flops_ratio", "FLOPs"), ("depth", "blocks")):
            number(
                name,
                getattr(self, name),
                least=0,
                below=1,
                optional=True,
                advice=f"It is the fraction of the {removed} that is removed: {name}=0.5 removes "
                "half.",
            )
        for name in ("max_flops", "max_parameters"):
            number(name, getattr(self, name), above=0, optional=True)
        LayerChoice("Shrink", self.layers, self.exclude)
        _check_choice("importance", self.importance, IMPORTANCES)
        _check_choice("scope", self.scope, ("uniform", "global"))
        _check_choice("reduction", self.reduction, REDUCTIONS)
        for name in ("min_channels", "batches"):
            number(name, getattr(self, name), least=1, whole=True)
        budgets = [
            name
            for name in ("max_flops", "flops_ratio", "max_parameters")
            if getattr(self, name) is not None
        ]
        if self.ratio is not None and budgets:
            raise ValueError(
                f"`ratio` says how many channels go, and `{budgets[0]}` asks for as many as are "
                "needed: give one of them."
            )
        if self.max_flops is not None and self.flops_ratio is not None:
            raise ValueError("`max_flops` and `flops_ratio` were both given: give one of them.")
        if self.ratio is None and not budgets and not self.drop and not self.depth:
            raise ValueError(
                "There is nothing to remove: give `ratio=0.5` (a fraction of the channels), "
                "`flops_ratio=`, `max_flops=`, `max_parameters=`, `drop=` or `depth=`."
            )

    @property
    def budgeted(self) -> bool:
        """Whether the target is a budget."""
        return any(v is not None for v in (self.max_flops, self.flops_ratio, self.max_parameters))

    @property
    def dropped_names(self) -> list[str]:
        """The names in `drop`."""
        return [self.drop] if isinstance(self.drop, str) else list(self.drop or ())

    @property
    def choice(self) -> LayerChoice:
        """The layers whose channels may go."""
        return LayerChoice("Shrink", self.layers, self.exclude)


def _check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        quoted = ", ".join(f'"{k}"' for k in known)
        raise ValueError(f"`{name}` must be one of {quoted}, but received {value!r}.")
