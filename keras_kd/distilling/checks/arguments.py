"""The arguments of a Distiller, checked one by one."""

from __future__ import annotations

from typing import Any

import keras

from keras_kd.distilling.balancing import BALANCED
from keras_kd.distilling.hints import Hint
from keras_kd.distilling.schedules import is_schedule
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.models.graph import output_structure
from keras_kd.models.outputs import output_names
from keras_kd.models.structures import arrange, leaves
from keras_kd.system.arguments import is_number, scheduled
from keras_kd.system.names import scope_name


def check_name(layer: keras.layers.Layer, role: str) -> None:
    """Refuse a name under which Keras cannot run a model: TensorFlow takes it for no scope.

    Args:
        layer: The model, or a layer that stands for one.
        role: What it is called in the error.

    Raises:
        ValueError: If so.
    """
    if scope_name(layer.name) != layer.name:
        raise ValueError(
            "The name of a model must begin with a letter, a digit or a dot, and hold none but "
            f"letters from a to z, digits, '_', '.' and '-': Keras cannot run it otherwise. "
            f"Received: {role} {layer.name!r}. Rename it: model.name = {scope_name(layer.name)!r}."
        )


def check_model(model: Any, role: str) -> None:
    """Refuse what is not a Keras model, or one whose name Keras cannot run.

    Raises:
        ValueError: Saying what was received.
    """
    if not isinstance(model, keras.Model):
        # A model in its wrapping, as `compress` returns it.
        inner = getattr(model, "model", model)
        if isinstance(inner, keras.Model):
            raise ValueError(
                f"`{role}` must be a keras.Model. Received: {type(model).__name__}. Pass its "
                "`.model`, which is one."
            )
        if any(c.__module__.startswith("tf_keras.") for c in type(inner).__mro__):
            raise ValueError(
                f"`{role}` is a model of tf_keras (Keras 2), which is not trained here. Build it "
                "from the layers of `keras`."
            )
        raise ValueError(
            f"`{role}` must be a keras.Model. Received: {type(model).__name__}: {model!r}."
        )
    check_name(model, role)


def check_losses(losses: Any, student: keras.Model, student_loss_weight: Any) -> list[Any]:
    """Return the distillation losses as a list, those given by output name in output order.

    Raises:
        ValueError: If an element is not a loss, names an output that does not exist, or shares
            variables with another one; or if there are none, although the loss on labels does not
            count alone.
    """
    if losses is None:
        raise ValueError(
            "`distillation_losses` cannot be None. Pass a loss, such as "
            "keras_kd.losses.KLDivergence(temperature=4.0), or a list of losses."
        )
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not losses and student_loss_weight != 1:
        raise ValueError(
            "`distillation_losses` is empty, so nothing would be distilled. Received: "
            f"distillation_losses={losses!r}. Pass a loss, such as "
            "keras_kd.losses.KLDivergence(temperature=4.0), or student_loss_weight=1.0."
        )
    accepted = (DistillationLoss, Hint, keras.distillation.DistillationLoss)
    for loss in losses:
        parts = [part for part, _ in leaves(loss) if part is not None]
        if not parts:
            raise ValueError(
                "An element of `distillation_losses` holds no loss: at least one output must be "
                f"distilled. Received: {loss!r}."
            )
        for part in parts:
            if not isinstance(part, accepted):
                raise ValueError(
                    "`distillation_losses` takes losses of keras_kd.losses, keras_kd.Hint and "
                    f"losses of keras.distillation. Received: {part!r}."
                )
            if keras.tree.is_nested(loss) and not isinstance(part, DistillationLoss):
                raise ValueError(
                    "A structure of losses, one per output, takes losses of keras_kd.losses. "
                    f"Received: {part!r}. Make it a separate element of `distillation_losses`."
                )
    _check_shared(losses)
    outputs, names = output_structure(student), output_names(student)
    return [arrange(loss, outputs, names, "distillation_losses") for loss in losses]


def _check_shared(losses: list[Any]) -> None:
    seen: set[int] = set()
    for part in (part for loss in losses for part, _ in leaves(loss)):
        held = [part, part.loss, part.projection] if isinstance(part, Hint) else [part]
        for one in held:
            has_variables = isinstance(one, (Hint, keras.layers.Layer)) or (
                isinstance(one, DistillationLoss) and hasattr(one, "build")
            )
            if has_variables and id(one) in seen:
                kind = type(one).__name__
                raise ValueError(
                    f"Two elements of `distillation_losses` hold the same {kind}, which has "
                    f"variables for one pair of layers. Received: {one!r} twice. Make a separate "
                    f"{kind} for each."
                )
            seen.add(id(one))


def check_weights(weights: Any, losses: list[Any]) -> list[Any]:
    """Return a weight for each loss; of `"balanced"` the word, until they are measured.

    Raises:
        ValueError: If their number differs, or one is neither a number nor a schedule.
    """
    if weights is None:
        return [1.0] * len(losses)
    if isinstance(weights, str):
        if weights != BALANCED:
            raise ValueError(
                '`distillation_loss_weights` must be numbers, schedules or "balanced". Received: '
                f"distillation_loss_weights={weights!r}."
            )
        return [BALANCED] * len(losses)
    if is_number(weights) or is_schedule(weights):
        weights = [weights]
    weights = list(weights)
    if len(weights) != len(losses):
        raise ValueError(
            f"`distillation_loss_weights` needs one weight per loss. Received: {len(weights)} for "
            f"{len(losses)} distillation losses."
        )
    return [scheduled("distillation_loss_weights", weight, least=0) for weight in weights]


def check_student_loss_weight(weight: Any) -> Any:
    """Return the weight of the loss on labels.

    Raises:
        ValueError: If it is neither a number between 0 and 1 nor a schedule.
    """
    weight = scheduled("student_loss_weight", weight, least=0, most=1)
    return float(weight) if is_number(weight) else weight
