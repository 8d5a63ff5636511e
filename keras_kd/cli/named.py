"""Losses, hints and stages as text: `prune(0.75, epochs=4)`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.system.arguments import number
from keras_kd.system.names import did_you_mean


def parse_call(text: str, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return name, arguments and keyword arguments of `name` or `name(0.75, epochs=4)`.

    Args:
        text: The text. Arguments are numbers, texts in quotes, `True`, `False`, `None` and lists.
        what: What it is, for errors: `"a loss"`.

    Raises:
        ValueError: If the text is not of this form.
    """
    form = f"{what} is written as a name, with arguments in brackets: name(0.5, key=2)"
    try:
        node: Any = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        name = node.func.id
        positional = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (AttributeError, SyntaxError, ValueError):
        raise ValueError(f"{form}; arguments are numbers or quoted. Received: {text!r}.") from None
    return name, positional, keywords


def nearest(name: str, names: Any) -> str:
    """Return a sentence that offers the nearest of `names`, or all of them."""
    known = sorted(names)
    return did_you_mean(name, known).strip() or f"There are: {', '.join(known)}."


def make_call(
    text: str, classes: Mapping[str, type], what: str, defaults: Mapping[str, Any] | None = None
) -> Any:
    """Return the object which a text describes.

    Args:
        text: As in `parse_call`.
        classes: The classes by name.
        what: What it is, for errors.
        defaults: Arguments which are given unless the text gives them, to classes that take them.
            Defaults to `None`.

    Raises:
        ValueError: If there is no such class, or it has no such argument or refuses its value.
    """
    name, positional, keywords = parse_call(text, what)
    if name not in classes:
        raise ValueError(f"There is no {what.split(' ', 1)[-1]} '{name}'. {nearest(name, classes)}")
    signature = inspect.signature(classes[name])
    for key in keywords:
        if key not in signature.parameters:
            raise ValueError(
                f"'{name}' has no argument `{key}`. {nearest(key, signature.parameters)}"
            )
    try:
        given = signature.bind_partial(*positional, **keywords).arguments
    except TypeError as error:
        raise ValueError(f"'{text}': {error}.") from None
    added = {
        key: value
        for key, value in (defaults or {}).items()
        if key in signature.parameters and key not in given
    }
    try:
        return classes[name](*positional, **keywords, **added)
    except TypeError as error:
        raise ValueError(f"'{text}': {error}.") from None


def loss_classes() -> dict[str, type]:
    """Return the losses of `keras_kd.losses` by name: `kl_divergence`, `fit_net` or `fitnet`."""
    from keras_kd import losses
    from keras_kd.losses.shared.base import DistillationLoss
    from keras_kd.system.names import snake_case

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
    from keras_kd.system.names import snake_case

    stages = (kd.Shrink, kd.LowRank, kd.Prune, kd.Cluster, kd.QuantizeAware)
    return {snake_case(stage.__name__): stage for stage in stages}


def make_stages(
    texts: Sequence[str], epochs: int | None = None, learning_rate: float | None = None
) -> list[Any]:
    """Return the stages that texts such as `prune(0.75, epochs=4)` describe.

    Args:
        texts: One per stage.
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
        raise ValueError(f"'{text}': the weight after the colon must be a number.") from None
    return name, number("weight", value, least=0, owner=f"'{text}'")
