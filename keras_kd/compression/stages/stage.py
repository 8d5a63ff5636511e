"""Stage: one change to a student, with its teacher teaching."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.compression.stages.layer_record import LayerNotes
from keras_kd.models.copying import described
from keras_kd.models.layer_plan import LayerPlan
from keras_kd.system.arguments import learning_rate as check_learning_rate
from keras_kd.system.arguments import number
from keras_kd.system.arguments import optimizer_rate as check_optimizer_rate


@dataclasses.dataclass
class StudentState:
    """The student between two stages.

    Attributes:
        model: The student, of Keras 3 or, after quantization-aware training, of `tf_keras`.
        layer_names: From the path of each layer of the original student to the present name of
            the layer with the same output. Empty while no layer was renamed.
        weight_layers: The same for the layers that hold the weights.
        structure: The Keras 3 student that `model` was made from, where `model` is one of
            `tf_keras`; else `None`.
        parts: From the path of a layer that was split to the paths of the layers that it became.
        pruned: Whether weights were pruned.
        quantization_aware: Whether the model was trained for few bits.
        quantization: The quantizers of such a model, as `Quantization.to_json` gives them.
        notes: What the stages did to each layer, by path.
        history: The history of each stage, by its name.
    """

    model: Any
    layer_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weight_layers: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    structure: Any = None
    parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pruned: bool = False
    quantization_aware: bool = False
    quantization: dict[str, Any] | None = None
    notes: dict[str, LayerNotes] = dataclasses.field(default_factory=dict)
    history: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    def note(self, path: str) -> LayerNotes:
        """Return the notes on a layer, to be added to."""
        return self.notes.setdefault(path, LayerNotes())


class Stage:
    """Base class of the stages of `compress`.

    A stage gives a `check`, which refuses what the stage cannot treat before anything is trained,
    and a `run`, which changes the student.

    Args:
        epochs: Number of epochs of training; 0 for none.
        optimizer: A `keras.optimizers.Optimizer`, or its name. A fresh copy is used. Defaults to
            `None`: Adam.
        learning_rate: Learning rate of the default optimizer, or of one given by name; a number
            or a schedule. Defaults to `None`: `default_learning_rate`.
        name: Name of the stage in the history and of its file: letters, digits and `_`, `-`, `.`
            or spaces. Defaults to the class's name in lower case.

    Raises:
        ValueError: If an argument is out of range, `name` cannot be a part of a file's name, or
            both an optimizer object and a learning
            rate are given.
    """

    default_learning_rate = 1e-3
    minimum_epochs = 0

    def __init__(
        self,
        epochs: int,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        owner = type(self).__name__
        number("epochs", epochs, least=self.minimum_epochs, whole=True, owner=owner)
        if optimizer is not None and learning_rate is not None and not isinstance(optimizer, str):
            raise ValueError(
                f"{type(self).__name__}: `learning_rate` was given beside an optimizer object, "
                "which has its own. Remove `learning_rate`, or give the optimizer by name."
            )
        if optimizer is not None and not isinstance(optimizer, (str, keras.optimizers.Optimizer)):
            raise ValueError(
                f"{type(self).__name__}: `optimizer` must be a keras.optimizers.Optimizer or its "
                f"name, but received {optimizer!r}."
            )
        if learning_rate is not None:
            check_learning_rate(learning_rate, owner)
        check_optimizer_rate(optimizer, owner)
        self.epochs = epochs
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.name = check_name(name or _default_name(type(self).__name__))

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """Return a fresh Keras 3 optimizer."""
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            return type(self.optimizer).from_config(self.optimizer.get_config())
        rate = self.default_learning_rate if self.learning_rate is None else self.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.optimizers.schedules.serialize(rate)
            rate = keras.optimizers.schedules.deserialize(rate)
        optimizer_class = type(keras.optimizers.get(self.optimizer or "adam"))
        return optimizer_class(learning_rate=rate)

    def gentler(self) -> Stage | None:
        """Return a stage that does less, or `None` if there is none.

        `compress(..., max_drop=...)` tries it where this stage costs too much.
        """
        return None

    def at_strength(self, strength: float) -> Stage:
        """Return a stage that does a part of what this one does.

        `compress_to_size` looks for the strength at which the file is small enough. A stage
        without a strength is returned as it is.

        Args:
            strength: From 0, nothing, to 1, this stage.
        """
        return self

    def changed(self, **arguments: Any) -> Stage:
        """Return a copy of this stage with other values of the attributes of these names."""
        stage = copy.copy(self)
        for name, value in arguments.items():
            setattr(stage, name, value)
        return stage

    def preview(self, student: keras.Model) -> keras.Model:
        """Return a student with the layers that this stage will leave, untrained.

        The stages after this one are checked on it.

        Args:
            student: The student before this stage; it is not changed.
        """
        return student

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse a student or an order of stages that this stage cannot treat.

        Args:
            student: The student, with the layers that the earlier stages will leave.
            earlier: The stages that run before this one.

        Raises:
            ValueError: If so; the message names the layer and says what to do.
        """
        raise NotImplementedError

    def layer_plans(self, student: keras.Model, earlier: Sequence[Stage]) -> dict[str, LayerPlan]:
        """Say what this stage will do with each layer, before anything is trained.

        Args:
            student: As in `check`.
            earlier: As in `check`.

        Returns:
            The plans by the path of the layer. A layer that is left out holds nothing that the
            stage could treat.

        Raises:
            ValueError: As `check`, in the same words.
        """
        self.check(student, earlier)
        return {}

    def run(self, state: StudentState, teaching: Any) -> None:
        """Change the student.

        Args:
            state: The student; it is changed in place.
            teaching: A `Teaching`: the objective, the data and the metrics.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        optimizer, rate = self.optimizer, self.learning_rate
        if isinstance(optimizer, keras.optimizers.Optimizer):
            optimizer = keras.optimizers.serialize(optimizer)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = keras.optimizers.schedules.serialize(rate)
        return {
            "epochs": self.epochs,
            "optimizer": optimizer,
            "learning_rate": rate,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        config = dict(config)
        if isinstance(config.get("optimizer"), dict):
            config["optimizer"] = keras.optimizers.deserialize(config["optimizer"])
        if isinstance(config.get("learning_rate"), dict):
            config["learning_rate"] = keras.optimizers.schedules.deserialize(
                config["learning_rate"]
            )
        return cls(**config)


def check_name(name: Any) -> str:
    """Return the name of a stage, which becomes a part of the name of its file.

    Raises:
        ValueError: If it could lead to another folder, or is no file's name everywhere.
    """
    if not isinstance(name, str) or len(name) > 64 or not re.fullmatch(r"\w([\w .-]*\w)?", name):
        raise ValueError(
            "The name of a stage is a part of the name of its file: 1 to 64 letters, digits or "
            "`_`, and `-`, `.` or spaces between them. "
            f"Received: name={name!r}."
        )
    return name


def stage_plans(
    stage: Stage, student: keras.Model, earlier: Sequence[Stage]
) -> dict[str, LayerPlan]:
    """Ask a stage what it will do; the one way in which `check` and `compress` do so.

    Args:
        stage: The stage.
        student: The student, with the layers that the earlier stages will leave.
        earlier: The stages that run before this one.

    Returns:
        The plans by the path of the layer.

    Raises:
        ValueError: If the stage cannot treat the student, whatever a layer or a function of the
            user's raised meanwhile.
    """
    return _asked(stage, student, lambda: stage.layer_plans(student, earlier))


def stage_preview(stage: Stage, student: keras.Model) -> keras.Model:
    """Return the student that a stage will leave, untrained, with the errors of `stage_plans`."""
    return _asked(stage, student, lambda: stage.preview(student))


def _asked(stage: Stage, student: keras.Model, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (ValueError, ImportError):
        raise
    except Exception as error:  # layers and functions of the user's may raise anything
        raise ValueError(
            f"{type(stage).__name__} cannot treat model '{student.name}': {described(error)}. "
            "Mend the layer that this comes from, or leave this stage out."
        ) from error


def _default_name(class_name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in class_name).lstrip("_")
