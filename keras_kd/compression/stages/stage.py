"""Stage: one change to a student, with its teacher teaching, and the plan of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_kd.compression.stages.layer_record import LayerNotes
from keras_kd.distilling.trainer import fresh_optimizer, schedule_of
from keras_kd.models.features import layer_paths
from keras_kd.models.layer_choice import Choice, LayerChoice
from keras_kd.models.layer_plan import LayerPlan, RefusedLayers
from keras_kd.models.layers import leaf_layers
from keras_kd.system.arguments import constructor_arguments, number
from keras_kd.system.arguments import learning_rate as check_learning_rate
from keras_kd.system.arguments import optimizer_rate as check_optimizer_rate
from keras_kd.system.names import SuggestsArguments, did_you_mean, snake_case
from keras_kd.system.remaking import made_again
from keras_kd.system.shown_text import described

if TYPE_CHECKING:
    from keras_kd.compression.running.teaching import Teaching


@dataclasses.dataclass
class StudentState:
    """The student between two stages.

    Attributes:
        model: The student, a Keras 3 model.
        parts: From the path of a layer that was split to the paths of the layers that it became.
        pruned: Whether weights were pruned.
        quantization_aware: Whether the model was trained for few bits.
        quantization: The quantizers of such a model, as `Quantization.to_json` gives them.
        notes: What the stages did to each layer, by path.
        history: The history of each stage, by its name.
    """

    model: Any
    parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pruned: bool = False
    quantization_aware: bool = False
    quantization: dict[str, Any] | None = None
    notes: dict[str, LayerNotes] = dataclasses.field(default_factory=dict)
    history: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    def note(self, path: str) -> LayerNotes:
        """Return the notes on a layer, to be added to."""
        return self.notes.setdefault(path, LayerNotes())

    @property
    def clustered(self) -> dict[str, str]:
        """`"kernel"` or `"channel"` by the path of a layer: what its values are shared by."""
        return {path: note.clustered for path, note in self.notes.items() if note.clustered}

    def take_notes(
        self, layers: Mapping[str, LayerPlan], left_out: str, done: Callable[[str], str | None]
    ) -> None:
        """Note for each layer of a plan what was done to it, or why it was left out.

        Args:
            layers: The plan's layers.
            left_out: What was not done, such as `"not pruned"`; the plan's reason follows.
            done: A function `path -> text` for the layers without a reason; `None` for no note.
        """
        for path, layer in layers.items():
            if layer.reason:
                self.note(path).not_done.append(f"{left_out}: {layer.reason}")
            elif (text := done(path)) is not None:
                self.note(path).done.append(text)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a stage will do with a student, decided before anything is trained.

    `check` prints it, `compress` applies it, and the notes on the layers are made of it.

    Args:
        layers: A `LayerPlan` by the path of the layer: what is done to it, or why not. A layer that
            is missing holds nothing that the stage could treat.
        apply: A function `(state, teaching) -> None` that changes `state.model`, trains it and
            takes notes.
        preview: A function without arguments that returns a student with the layers that the stage
            will leave, untrained; the stages after this one are planned on it. Defaults to `None`:
            the layers stay what they are.
        error: Why the stage refuses the student. Defaults to `None`: it does not.
    """

    layers: Mapping[str, LayerPlan]
    apply: Callable[[StudentState, Teaching], None]
    preview: Callable[[], keras.Model] = None  # type: ignore[assignment]  # `Stage.plan` sets it
    error: Exception | None = None

    @property
    def refused(self) -> str:
        """Why the stage refuses the student, or `""`."""
        return "" if self.error is None else str(self.error)

    def check(self) -> None:
        """Raise the error of a plan that is refused."""
        if self.error is not None:
            raise self.error


@keras.saving.register_keras_serializable(package="keras_kd")
class RescaledSchedule(LearningRateSchedule):
    """A schedule that runs faster or slower than another one.

    Args:
        schedule: The other one.
        factor: Steps of `schedule` per step.
    """

    def __init__(self, schedule: LearningRateSchedule, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        return self.schedule(keras.ops.cast(step, "float32") * self.factor)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RescaledSchedule:
        """Make a schedule from `get_config()`."""
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["factor"])


class Stage(SuggestsArguments):
    """Base class of the stages of `compress`.

    A stage of your own derives from it and gives `make_plan`. What its constructor takes are
    attributes of the same names: `get_config` reads them there.

    Args:
        epochs: Number of epochs of training; 0 for none.
        optimizer: A `keras.optimizers.Optimizer`, or its name. A fresh copy is used. Defaults to
            `None`: Adam.
        learning_rate: Learning rate of the default optimizer, or of one given by name; a number
            or a schedule. Defaults to `None`: `default_learning_rate`.
        name: Name of the stage in the history and of its file: letters, digits and `_`, `-`, `.`
            or spaces. Defaults to the class's name in snake case.
        layers: The layers to treat: a name, a list of names, or a function `layer -> bool`. A name
            is a layer's own (`"conv1"`), its path inside a nested model (`"backbone/conv1"`) or a
            shell pattern of either (`"block3_*"`). Defaults to `None`: all that can be.
        exclude: The layers to spare, given in the same way. Defaults to `None`: none.

    Raises:
        TypeError: If `layers` or `exclude` is of another kind.
        ValueError: If an argument is out of range, `name` cannot be a part of a file's name, or
            both an optimizer object and a learning rate are given.
    """

    default_learning_rate = 1e-3
    minimum_epochs = 0
    unsaved: tuple[str, ...] = ()  # arguments that no configuration can hold

    def __init__(
        self,
        epochs: int,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
        layers: Choice = None,
        exclude: Choice = None,
    ) -> None:
        owner = type(self).__name__
        number("epochs", epochs, least=self.minimum_epochs, whole=True, owner=owner)
        if optimizer is not None and learning_rate is not None and not isinstance(optimizer, str):
            raise ValueError(
                f"{owner}: `learning_rate` was given beside an optimizer object, "
                "which has its own. Remove `learning_rate`, or give the optimizer by name."
            )
        if optimizer is not None and not isinstance(optimizer, (str, keras.optimizers.Optimizer)):
            raise ValueError(
                f"{owner}: `optimizer` must be a keras.optimizers.Optimizer or its "
                f"name. Received: {optimizer!r}."
            )
        if learning_rate is not None:
            check_learning_rate(learning_rate, owner)
        check_optimizer_rate(optimizer, owner)
        self.epochs = epochs
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.name = check_name(name or snake_case(owner))
        self.choice = LayerChoice(owner, layers, exclude)

    @property
    def layers(self) -> Any:
        """The layers to treat: a list of names, a function, or `None` for all."""
        return self.choice.layers

    @property
    def exclude(self) -> Any:
        """The layers to spare, in the same way."""
        return self.choice.exclude

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """Return a fresh Keras 3 optimizer."""
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            return fresh_optimizer(self.optimizer)
        rate = self.default_learning_rate if self.learning_rate is None else self.learning_rate
        if isinstance(rate, LearningRateSchedule):
            rate = made_again(rate)
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

    def with_epochs(self, epochs: int) -> Stage:
        """Return a copy with another number of epochs, and its schedules stretched to match.

        Args:
            epochs: The number of epochs.
        """
        made = self.changed(epochs=epochs)
        if epochs == self.epochs:
            return made
        factor = self.epochs / epochs
        if isinstance(self.learning_rate, LearningRateSchedule):
            made.learning_rate = RescaledSchedule(self.learning_rate, factor)
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            schedule = schedule_of(self.optimizer)
            if schedule is not None:
                rate = RescaledSchedule(schedule, factor)
                made.optimizer = fresh_optimizer(self.optimizer, learning_rate=rate)
        return made

    def plan(self, student: keras.Model, earlier: Sequence[Stage] = ()) -> Plan:
        """Decide what this stage will do with a student; the one way in which that is asked.

        Raises nothing: what `make_plan` raises is the `error` of the plan, a layer's or function's
        own exceptions as a `ValueError`.

        Args:
            student: The student, with the layers that the earlier stages leave.
            earlier: The stages that run before this one. Defaults to `()`.
        """
        own = not type(self).__module__.startswith("keras_kd.")
        try:
            with _unchanged(student, type(self).__name__) if own else contextlib.nullcontext():
                plan = self._asked(student, lambda: self.make_plan(student, earlier))
            if not isinstance(plan, Plan) or not all(
                isinstance(layer, LayerPlan) for layer in plan.layers.values()
            ):
                raise ValueError(
                    f"{type(self).__name__}.make_plan must return a keras_kd.Plan with a "
                    f"keras_kd.LayerPlan for each layer. Received: {plan!r:.200}."
                )
            if own:
                self.choice.check(student, {})
                _check_paths(plan, student, type(self).__name__)
        except (ValueError, ImportError) as error:
            refused = error.layers if isinstance(error, RefusedLayers) else {}
            layers = {path: LayerPlan("refused", text) for path, text in refused.items()}
            return Plan(layers, _raising(error), _raising(error), error)
        preview: Any = plan.preview
        make = preview or (lambda: student)
        return dataclasses.replace(plan, preview=lambda: self._asked(student, make))

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Return the plan of this stage for a student; `plan` calls it.

        Args:
            student: As in `plan`. The plan is applied to this very model.
            earlier: As in `plan`.

        Raises:
            ValueError: If the stage cannot treat the student; the message names the layer and says
                what to do.
        """
        raise NotImplementedError

    def _asked(self, student: keras.Model, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (ValueError, ImportError):
            raise
        except NotImplementedError as error:
            if type(self).make_plan is not Stage.make_plan:
                raise ValueError(f"{type(self).__name__}: {described(error)}.") from error
            raise ValueError(
                f"{type(self).__name__} has no `make_plan`. Give it one that returns a "
                "keras_kd.Plan."
            ) from error
        except Exception as error:  # layers and functions of the user's may raise anything
            raise ValueError(
                f"{type(self).__name__} cannot treat model '{student.name}': {described(error)}. "
                "Fix the layer that causes this, or leave this stage out."
            ) from error

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as a dictionary that Keras can save."""
        names = [name for name in constructor_arguments(type(self)) if name not in self.unsaved]
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise NotImplementedError(
                f"{type(self).__name__}.get_config reads the arguments of the constructor from "
                f"attributes of the same names, and there is none for `{missing[0]}`. Set "
                f"`self.{missing[0]}`, or override `get_config`."
            )
        choice = self.choice.get_config()
        return {
            name: choice[name] if name in choice else _serialized(getattr(self, name))
            for name in names
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        made = {
            "optimizer": keras.optimizers.deserialize,
            "learning_rate": keras.optimizers.schedules.deserialize,
            "layers": keras.saving.deserialize_keras_object,
            "exclude": keras.saving.deserialize_keras_object,
        }
        return cls(
            **{
                key: made[key](value) if key in made and isinstance(value, dict) else value
                for key, value in config.items()
            }
        )


def _serialized(value: Any) -> Any:
    if isinstance(value, keras.optimizers.Optimizer):
        return keras.optimizers.serialize(value)
    if isinstance(value, LearningRateSchedule):
        return keras.optimizers.schedules.serialize(value)
    return value.get_config() if hasattr(value, "get_config") else value


def _raising(error: Exception) -> Callable[..., Any]:
    def refuse(*arguments: Any) -> None:
        raise error

    return refuse


def check_name(name: Any) -> str:
    """Return the name of a stage, which becomes a part of the name of its file.

    Raises:
        ValueError: If it could lead to another folder, or is not a valid file name everywhere.
    """
    if not isinstance(name, str) or len(name) > 64 or not re.fullmatch(r"\w([\w .-]*\w)?", name):
        raise ValueError(
            "The name of a stage is a part of the name of its file: 1 to 64 letters, digits or "
            "`_`, and `-`, `.` or spaces between them. "
            f"Received: name={name!r}."
        )
    return name


@contextlib.contextmanager
def _unchanged(student: keras.Model, stage: str) -> Iterator[None]:
    """Refuse a plan that changed the student, after its weights were put back.

    Raises:
        ValueError: Naming what was changed.
    """
    weights = [(weight, keras.ops.convert_to_numpy(weight)) for weight in student.weights]
    layers = [(path, layer, layer.trainable) for path, layer in leaf_layers(student)]
    yield
    changed = []
    for weight, value in weights:
        if not np.array_equal(keras.ops.convert_to_numpy(weight), value, equal_nan=True):
            weight.assign(value)
            changed.append(weight)
    others = [path for path, layer, trainable in layers if layer.trainable != trainable]
    for _, layer, trainable in layers:
        layer.trainable = trainable
    now = [(path, layer) for path, layer in leaf_layers(student)]
    if now != [(path, layer) for path, layer, _ in layers]:
        others.append("its layers")
    if changed or others:
        what = changed[0].path if changed else others[0]
        raise ValueError(
            f"{stage}.make_plan changes the student '{student.name}': {what}. `make_plan` only "
            "decides; make the change in the function that the plan gets as `apply`."
        )


def _check_paths(plan: Plan, student: keras.Model, stage: str) -> None:
    known = {*layer_paths(student), *(path for path, _ in leaf_layers(student))}
    for path in plan.layers:
        if path not in known:
            raise ValueError(
                f"{stage}.make_plan plans for a layer '{path}', but model '{student.name}' has no "
                f"such layer.{did_you_mean(path, known)}"
            )
