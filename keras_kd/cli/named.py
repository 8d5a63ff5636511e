"""Losses, hints and stages by their names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from keras_kd.cli.call_text import make_call
from keras_kd.system.arguments import number


def loss_classes() -> dict[str, type]:
    """Return the losses of `keras_kd.losses` by name: `kl_divergence`, `fit_net` or `fitnet`."""
    from keras_kd import losses
    from keras_kd.losses.shared.base import DistillationLoss, snake_case

    found: dict[str, type] = {}
    # CRD remembers every example, and needs data that number them.
    left_out = (DistillationLoss, losses.CRD)
    for name, value in vars(losses).items():
        is_loss = inspect.isclass(value) and issubclass(value, DistillationLoss)
        if is_loss and value not in left_out:
            found[snake_case(name)] = value
            found[snake_case(name).replace("_", "")] = value
    return found


def stage_classes() -> dict[str, type]:
    """Return the stages of `compress` by name: `prune`, `quantize_aware`."""
    import keras_kd as kd
    from keras_kd.losses.shared.base import snake_case

    stages = (kd.Shrink, kd.LowRank, kd.Prune, kd.Cluster, kd.QuantizeAware)
    return {snake_case(stage.__name__): stage for stage in stages}


def make_stages(
    texts: Sequence[str], epochs: int | None = None, learning_rate: float | None = None
) -> list[Any]:
    """Return the stages that texts such as `prune(0.75, epochs=4)` describe.

    Args:
        texts: One a stage.
        epochs: Epochs of a stage that does not give its own. Defaults to `None`, the stage's.
        learning_rate: Learning rate of a stage that does not give its own. Defaults to `None`.

    Raises:
        ValueError: If there is no such stage or argument.
    """
    defaults: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    defaults = {key: value for key, value in defaults.items() if value is not None}
    classes = stage_classes()
    return [make_call(text, classes, "a stage", defaults) for text in texts]


def make_losses(
    losses: Sequence[str], hints: Sequence[str], temperature: float, from_logits: bool
) -> tuple[list[Any], list[float]]:
    """Return the distillation losses and their weights.

    Args:
        losses: Texts `loss` or `loss:weight`.
        hints: Texts `teacher_layer:student_layer`, `...:loss` or `...:loss:weight`; several
            layers are joined by commas.
        temperature: Of losses that take one and do not give their own.
        from_logits: Whether the outputs that are compared are logits.

    Raises:
        ValueError: If a text is not of this form, or names no loss.
    """
    import keras_kd as kd

    classes = loss_classes()
    defaults = {"temperature": temperature, "from_logits": from_logits}
    made: list[Any] = []
    weights: list[float] = []
    for text in losses:
        name, weight = _weighted(text)
        loss = make_call(name, classes, "a loss", defaults)
        made.append(loss)
        weights.append(weight)
    for text in hints:
        parts = text.split(":")
        if not 2 <= len(parts) <= 4 or not all(part.strip() for part in parts):
            raise ValueError(
                "A hint is written TEACHER_LAYER:STUDENT_LAYER, with a loss and a weight behind "
                f"further colons. Received: {text!r}."
            )
        theirs, ours = (part.split(",") if "," in part else part for part in parts[:2])
        name, weight = _weighted(":".join(parts[2:]) or "fit_net")
        made.append(kd.Hint(theirs, ours, loss=make_call(name, classes, "a loss")))
        weights.append(weight)
    return made, weights


def _weighted(text: str) -> tuple[str, float]:
    name, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        raise ValueError(f"'{text}': the weight behind the colon must be a number.") from None
    return name, number("weight", value, least=0, owner=f"'{text}'")
