"""Losses, hints, stages and formats as text: `prune(0.75, epochs=4)`."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.system.arguments import number
from keras_kd.system.names import did_you_mean, one_of


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
    """Return a sentence that offers the nearest of `names`, those with a near word, or all."""
    known = sorted(names)
    if suggestion := did_you_mean(name, known).strip():
        return suggestion
    words = {word for one in known for word in one.split("_")}
    found = difflib.get_close_matches(name, sorted(words), n=1, cutoff=0.6)
    near = [one for one in known if found and found[0] in one.split("_")]
    if len(near) == 1:
        return f"Did you mean '{near[0]}'?"
    return f"Did you mean one of: {', '.join(near)}?" if near else f"There are: {', '.join(known)}."


def check_format(text: str) -> None:
    """Refuse a text that is not a format of `export_tflite`."""
    from keras_kd.export.options import QUANTIZATIONS

    one_of("FORM", text, QUANTIZATIONS)


def check_calibration(text: str, quantization: str = "int8") -> None:
    """Refuse a text that is not a way to calibrate, or not one of this format."""
    from keras_kd.export.ways import way_of

    way_of(text, quantization)


def check_optimizer(text: str) -> None:
    """Refuse a text that is not the name of a Keras optimizer."""
    import keras

    try:
        keras.optimizers.get(text)
    except (TypeError, ValueError):
        kinds = [kind for kind in vars(keras.optimizers).values() if inspect.isclass(kind)]
        names = {kind.__name__.lower() for kind in kinds if "Optimizer" not in kind.__name__}
        raise ValueError(
            f"There is no Keras optimizer '{text}'. {nearest(text.lower(), names)}"
        ) from None


def shrink_ratio(text: str) -> float | None:
    """Return the ratio of `shrink:RATIO`, and `None` for any other text.

    Raises:
        ValueError: If it is not a number of at least 0 and below 1.
    """
    name, colon, ratio = text.partition(":")
    if not colon or name != "shrink":
        return None
    value: Any = ratio
    with contextlib.suppress(ValueError):
        value = float(ratio)
    advice = "It is the fraction of the channels that is removed: shrink:0.5 removes half."
    found: float = number("RATIO", value, owner="shrink:RATIO", least=0, below=1, advice=advice)
    return found


def check_device(text: str) -> None:
    """Refuse a text that is not a device of `device_cost`."""
    from keras_kd.measuring.device_cost import DEVICES

    one_of("device", text, DEVICES)


def check_budget(text: str) -> None:
    """Refuse a text that is not a budget of `search`."""
    from keras_kd.planning.search.search import budget_seconds

    budget_seconds(text)


def object_name(text: str) -> tuple[str, str]:
    """Return module and name of `module:Name`.

    Raises:
        ValueError: If the text is not of this form.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(
            f"A custom object is written MODULE:NAME, such as my_layers:Gate. Received: {text!r}."
        )
    return module, name


def make_call(
    text: str, classes: Mapping[str, type], what: str, defaults: Mapping[str, Any] | None = None
) -> Any:
    """Return the object which a text describes.

    Args:
        text: As in `parse_call`.
        classes: The classes by name, which may be written in capitals or without underscores.
        what: What it is, for errors.
        defaults: Arguments which are given unless the text gives them, to classes that take them.
            Defaults to `None`.

    Raises:
        ValueError: If there is no such class, or it has no such argument or refuses its value.
    """
    name, positional, keywords = parse_call(text, what)
    by_letters = {_letters(known): kind for known, kind in classes.items()}
    kind = by_letters.get(_letters(name))
    if kind is None:
        raise ValueError(f"There is no {what.split(' ', 1)[-1]} '{name}'. {nearest(name, classes)}")
    signature = inspect.signature(kind)
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
        return kind(*positional, **keywords, **added)
    except TypeError as error:
        raise ValueError(f"'{text}': {error}.") from None


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def loss_classes() -> dict[str, type]:
    """Return the losses of `keras_kd.losses` by name: `kl_divergence`, `fit_net`."""
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
    return found


def stage_classes() -> dict[str, type]:
    """Return the stages of `compress` by name: `prune`, `quantize_aware`."""
    import keras_kd as kd
    from keras_kd.system.names import snake_case

    stages = (kd.Shrink, kd.LowRank, kd.Prune, kd.Cluster, kd.QuantizeAware)
    return {snake_case(stage.__name__): stage for stage in stages}


def make_stage(text: str, defaults: Mapping[str, Any] | None = None) -> Any:
    """Return the stage that a text describes; arguments as of `make_call`."""
    return make_call(text, stage_classes(), "a stage", defaults)


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
    return [make_stage(text, defaults) for text in texts]


def make_loss(text: str, defaults: Mapping[str, Any] | None = None) -> tuple[Any, float]:
    """Return the loss that `loss` or `loss:weight` describes, and its weight.

    Args:
        text: The text.
        defaults: As for `make_call`.

    Raises:
        ValueError: If it is not of this form, or names no loss.
    """
    name, weight = _weighted(text)
    return make_call(name, loss_classes(), "a loss", defaults), weight


def make_hint(text: str) -> tuple[Any, float]:
    """Return the hint that a text describes, and its weight.

    Args:
        text: `teacher_layer:student_layer`, `...:loss` or `...:loss:weight`; several layers are
            joined by commas.

    Raises:
        ValueError: If it is not of this form, or names no loss.
    """
    import keras_kd as kd

    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not all(part.strip() for part in parts):
        raise ValueError(
            "A hint is written TEACHER_LAYER:STUDENT_LAYER, with a loss and a weight behind "
            f"further colons. Received: {text!r}."
        )
    theirs, ours = (part.split(",") if "," in part else part for part in parts[:2])
    loss, weight = make_loss(":".join(parts[2:]) or "fit_net")
    return kd.Hint(theirs, ours, loss=loss), weight


def make_losses(
    losses: Sequence[str], hints: Sequence[str], temperature: float, from_logits: bool
) -> tuple[list[Any], list[float]]:
    """Return the distillation losses and their weights.

    Args:
        losses: Texts as for `make_loss`.
        hints: Texts as for `make_hint`.
        temperature: Of losses that take one and do not give their own.
        from_logits: Whether the outputs that are compared are logits.

    Raises:
        ValueError: If a text is not of this form, or names no loss.
    """
    defaults = {"temperature": temperature, "from_logits": from_logits}
    made = [make_loss(text, defaults) for text in losses] + [make_hint(text) for text in hints]
    return [loss for loss, _ in made], [weight for _, weight in made]


def _weighted(text: str) -> tuple[str, float]:
    name, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        value = float(weight)
    except ValueError:
        raise ValueError(f"'{text}': the weight after the colon must be a number.") from None
    return name, number("weight", value, least=0, owner=f"'{text}'")
