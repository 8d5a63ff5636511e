"""Numbers that change during training: weights, temperatures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_kd.distilling.hints import Hint
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.system.arguments import scheduled_value

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule

# A number, a schedule of steps, or a function of the epoch, which counts from zero.
Scheduled: TypeAlias = float | Callable[[Any], Any]


def is_schedule(value: Any) -> bool:
    """Return whether a value is a schedule of steps or a function of the epoch."""
    return isinstance(value, LearningRateSchedule) or callable(value)


class Schedules:
    """The present values of scheduled numbers.

    A `keras.optimizers.schedules.LearningRateSchedule` is evaluated inside the training step, at
    the optimizer's step. A function of the epoch is evaluated in Python when an epoch begins, and
    read from a variable inside the step. Neither makes TensorFlow trace the step again.

    Args:
        values: Numbers, schedules and functions, of at least 0.
        losses: Losses and hints, whose `scheduled_arguments` may be schedules or functions, and
            whose other attributes may be schedules.
        student_loss_weight: A number, schedule or function from 0 to 1. Defaults to `0.0`.

    Raises:
        ValueError: If a function of the epoch does not return such a number for epoch 0.
    """

    def __init__(
        self, values: Sequence[Any], losses: Sequence[Any], student_loss_weight: Any = 0.0
    ) -> None:
        self.step: Callable[[], Any] = lambda: 0
        found: list[tuple[Any, str, dict[str, int]]] = [
            (student_loss_weight, "student_loss_weight", {"least": 0, "most": 1}),
            *((value, "distillation_loss_weights", {"least": 0}) for value in values),
        ]
        for loss in _flat_losses(losses):
            found += [
                (value, name, {"above" if name == "temperature" else "least": 0})
                for name, value in _scheduled(loss).items()
            ]
        self._functions: dict[int, _Function] = {}
        for value, name, bounds in found:
            if _is_function(value) and id(value) not in self._functions:
                self._functions[id(value)] = _Function(value, name, bounds)

    @property
    def by_epoch(self) -> bool:
        """Whether a value depends on the epoch."""
        return bool(self._functions)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that hold the present values of functions of the epoch."""
        return [function.variable for function in self._functions.values()]

    def begin_epoch(self, epoch: int) -> None:
        """Set the values of functions of the epoch.

        Raises:
            ValueError: If a function does not return a number that makes sense.
        """
        for function in self._functions.values():
            function.begin_epoch(epoch)

    def value(self, scheduled: Any) -> Any:
        """Return the present value: a number as it is, or a float32 scalar.

        Raises:
            ValueError: If it is `"balanced"`, a weight that `fit` has not measured yet.
        """
        if isinstance(scheduled, str):
            raise ValueError(
                "The weights of the losses are not measured yet. Received: "
                f"distillation_loss_weights={scheduled!r}. Call `fit` of the distiller first, or "
                "pass numbers."
            )
        if isinstance(scheduled, LearningRateSchedule):
            return keras.ops.cast(scheduled(self.step()), "float32")
        if callable(scheduled):
            return keras.ops.convert_to_tensor(self._functions[id(scheduled)].variable)
        return scheduled

    def number(self, scheduled: Any) -> float:
        """Return the present value as a Python number; call this outside `tf.function`."""
        return float(keras.ops.convert_to_numpy(self.value(scheduled)))

    def loss(self, loss: Any, numbers: bool = False) -> Any:
        """Return a loss with present values in the place of its schedules.

        Args:
            loss: A loss, a hint, or a structure of losses, which stays as it is.
            numbers: Whether the values are Python numbers. Defaults to `False`, tensors.
        """
        if isinstance(loss, Hint):
            inner = self.loss(loss.loss, numbers)
            if inner is loss.loss:
                return loss
            hint = copy.copy(loss)
            hint.loss = inner
            return hint
        if isinstance(loss, (dict, list, tuple)):
            return keras.tree.map_structure(lambda part: self.loss(part, numbers), loss)
        scheduled = _scheduled(loss)
        if not scheduled:
            return loss
        result = copy.copy(loss)
        for name, value in scheduled.items():
            setattr(result, name, self.number(value) if numbers else self.value(value))
        return result


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, LearningRateSchedule)


def _scheduled(loss: Any) -> dict[str, Any]:
    if not isinstance(loss, DistillationLoss):
        return {}
    return {
        name: value
        for name, value in vars(loss).items()
        if isinstance(value, LearningRateSchedule)
        or (name in loss.scheduled_arguments and callable(value))
    }


def _flat_losses(losses: Sequence[Any]) -> list[Any]:
    flat = [part for loss in losses for part in keras.tree.flatten(loss)]
    return [part.loss if isinstance(part, Hint) else part for part in flat]


class _Function:
    """A function of the epoch, and the variable that holds its present value."""

    def __init__(self, function: Callable[[int], Any], name: str, bounds: dict[str, int]) -> None:
        self._function = function
        self._name = name
        self._bounds = bounds
        self.variable = keras.Variable(self._value(0), dtype="float32", trainable=False)

    def begin_epoch(self, epoch: int) -> None:
        self.variable.assign(self._value(epoch))

    def _value(self, epoch: int) -> float:
        return scheduled_value(self._name, self._function, epoch, **self._bounds)


def serialize(scheduled: Any) -> Any:
    """Return a number, schedule or registered function as its configuration."""
    return keras.saving.serialize_keras_object(scheduled)


def deserialize(config: Any, custom_objects: Any = None) -> Any:
    """Return the number, schedule or function of `serialize`."""
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def deserialize_loss(config: Any, custom_objects: Any = None) -> Any:
    """Return a loss, or a structure of losses, from its configuration, its schedules included."""
    if isinstance(config, (list, tuple)):
        return [deserialize_loss(part, custom_objects) for part in config]
    if not isinstance(config, dict):
        return config
    if not _is_object(config):
        return {key: deserialize_loss(part, custom_objects) for key, part in config.items()}
    inner = dict(config["config"])
    for key, value in inner.items():
        if not _is_object(value):
            continue
        if config.get("registered_name") == "keras_kd>Hint" and key == "loss":
            inner[key] = deserialize_loss(value, custom_objects)
            continue
        made = deserialize(value, custom_objects)
        if callable(made):
            inner[key] = made
    return deserialize({**config, "config": inner}, custom_objects)


def _is_object(config: Any) -> bool:
    return isinstance(config, dict) and "class_name" in config and "config" in config
