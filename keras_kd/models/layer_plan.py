"""LayerPlan: what a stage will do to a layer, why it does no more, and what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


class Reason(str):
    """Why something is not done, in words, with what to change.

    A string like any other; messages about what will happen and about what has happened are made
    of the same one.

    Args:
        text: The reason, a clause without a full stop.
        advice: What to do, a clause in the imperative. Defaults to `""`: nothing would help.
    """

    advice: str

    def __new__(cls, text: str, advice: str = "") -> Reason:
        """Make the string."""
        reason = super().__new__(cls, text)
        reason.advice = advice
        return reason


def advice_of(reason: str) -> str:
    """Return what to change about a reason; `""` for a plain string."""
    return getattr(reason, "advice", "")


class RefusedLayers(ValueError):
    """Layers that a stage or an export cannot treat, so that it refuses the model.

    Args:
        layers: A whole message by the path of each layer.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        super().__init__("\n".join(layers.values()))
        self.layers = dict(layers)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What a stage or an export will do with a layer.

    Attributes:
        action: What it will do, in a few words: `"prune 75%"`, `"8 bits"`, `"keep"`.
        reason: Why it does not do more; empty where nothing is left out.
        advice: What to change, where something would help.
        operators: The operators that the layer was converted to on trial; empty otherwise.
    """

    action: str
    reason: str = ""
    advice: str = ""
    operators: str = ""

    @classmethod
    def spared(cls, reason: str, action: str = "keep") -> LayerPlan:
        """Return the plan of a layer that is left out for a `Reason` or another string."""
        return cls(action, str(reason), advice_of(reason))
