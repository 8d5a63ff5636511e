"""Shrink: remove channels, heads and blocks from a student."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd.compression.shrinking.importance import Importance, taylor_scores
from keras_kd.compression.shrinking.options import ShrinkOptions
from keras_kd.compression.shrinking.plan import ShrinkPlan, check_shrinkable, make_plan
from keras_kd.compression.stages.layer_choice import choice_from_config
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.models.layer_plan import LayerPlan


@keras.saving.register_keras_serializable(package="keras_kd")
class Shrink(Stage):
    """Makes a student smaller by removing whole channels, attention heads and blocks.

    What is removed is gone from the model, which is a smaller Keras 3 model afterwards and is
    trained with the teacher teaching. `keras_kd.shrink` does the same to a model alone, and
    describes the arguments. Hints at layers that still exist go on; where the number of channels
    changed their projections are made anew.

    Args:
        ratio: Fraction of the channels to remove. Defaults to `None`.
        epochs: Number of epochs of training afterwards; 0 for none. Defaults to `1`.
        max_flops: FLOPs of one pass that may remain. Defaults to `None`.
        flops_ratio: Fraction of the FLOPs to remove at least. Defaults to `None`.
        max_parameters: Number of parameters that may remain. Defaults to `None`.
        importance: `"l1"`, `"batch_norm"` or `"taylor"`; the last looks at the distiller's loss
            on some batches of the training data. Defaults to `"l1"`.
        batches: Number of batches for `"taylor"`. Defaults to `10`.
        scope: `"uniform"` or `"global"`. Defaults to `"uniform"`.
        reduction: `"mean"` or `"sum"`. Defaults to `"mean"`.
        min_channels: Channels of a layer that must remain. Defaults to `1`.
        layers: The layers that may lose channels. Defaults to `None`, all.
        exclude: The layers that keep their channels. Defaults to `None`.
        drop: Blocks to drop, by name. Defaults to `None`.
        depth: Fraction of the blocks to drop. Defaults to `None`.
        layer_norm: Whether channels that a LayerNormalization normalises over may go. Defaults to
            `False`.
        optimizer: A Keras optimizer or its name. Defaults to `None`: Adam.
        learning_rate: Learning rate of the default optimizer. Defaults to `None`: `1e-3`.
        name: Name of the stage in the history. Defaults to `"shrink"`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of range, or no target is given.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Shrink(flops_ratio=0.5, epochs=4), keras_kd.QuantizeAware(epochs=2)],
    )
    ```

    Reference:
        Fang et al., DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900.
    """

    default_learning_rate = 1e-3

    def __init__(
        self,
        ratio: float | None = None,
        epochs: int = 1,
        *,
        max_flops: float | None = None,
        flops_ratio: float | None = None,
        max_parameters: int | None = None,
        importance: str = "l1",
        batches: int = 10,
        scope: str = "uniform",
        reduction: str = "mean",
        min_channels: int = 1,
        layers: str | Sequence[str] | Callable[[Any], bool] | None = None,
        exclude: str | Sequence[str] | Callable[[Any], bool] | None = None,
        drop: str | Sequence[str] | None = None,
        depth: float | None = None,
        layer_norm: bool = False,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name)
        self.options = ShrinkOptions(
            ratio,
            max_flops=max_flops,
            flops_ratio=flops_ratio,
            max_parameters=max_parameters,
            importance=importance,
            batches=batches,
            scope=scope,
            reduction=reduction,
            min_channels=min_channels,
            layers=layers,
            exclude=exclude,
            drop=drop,
            depth=depth,
            layer_norm=layer_norm,
        )
        self.plan: ShrinkPlan | None = None

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse a student without a graph, names that do not exist, and a budget out of reach."""
        self.layer_plans(student, earlier)

    def layer_plans(self, student: keras.Model, earlier: Sequence[Stage]) -> dict[str, LayerPlan]:
        """Say how many channels go from each layer, and why others keep theirs.

        With `importance="taylor"` it is the plan by weights: which channels go, and with
        `scope="global"` how many of a layer, is known once data was seen.
        """
        check_shrinkable(student, self.options)
        plan = {}
        for layer in self._plan_by_weights(student).layers:
            if layer.after == 0:
                plan[layer.name] = LayerPlan("drop")
            elif layer.reason:
                plan[layer.name] = LayerPlan.spared(layer.reason)
            else:
                plan[layer.name] = LayerPlan(layer.change)
        return plan

    def preview(self, student: keras.Model) -> keras.Model:
        """Return the student without the channels that its weights alone speak against."""
        return self._plan_by_weights(student).apply()

    def run(self, state: StudentState, teaching: Any) -> None:
        """Shrink the student and train it; the state's model stays a Keras 3 model."""
        scores = None
        if self.options.importance == "taylor":
            scores = taylor_scores(
                state.model, teaching.examples, _taught_loss(state, teaching), self.options.batches
            )
        plan = make_plan(state.model, self.options, Importance(self.options.importance, scores))
        state.model = plan.apply()
        self.plan = plan
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            state.history[self.name] = teaching.fit(trainer, self.epochs)
        for layer in plan.layers:
            if layer.after == 0:
                state.note(layer.name).done.append("dropped")
            elif layer.reason:
                state.note(layer.name).not_done.append(f"not shrunk: {layer.reason}")
            else:
                state.note(layer.name).done.append(f"shrunk from {layer.change}")

    def gentler(self) -> Stage | None:
        """Return a stage that removes two thirds as much, or one of half as large a budget again.

        Blocks that are named in `drop` go in any case.
        """
        options = self.options
        less = {
            name: round(value * 2 / 3, 4)
            for name in ("ratio", "flops_ratio", "depth")
            if (value := getattr(options, name)) is not None
        }
        if less and max(less.values()) < 0.05:
            return None
        for name in ("max_flops", "max_parameters"):
            value = getattr(options, name)
            if value is not None:
                less[name] = round(1.5 * value)
        return self.changed(**less) if less else None

    def changed(self, **arguments: Any) -> Stage:
        """Return a copy of this stage with other options, or other arguments of every stage."""
        options = {name: arguments.pop(name) for name in list(arguments) if name in _OPTIONS}
        replaced = dataclasses.replace(self.options, **options)
        return super().changed(**arguments, options=replaced)

    def at_strength(self, strength: float) -> Stage:
        """Return a stage of a part of the fractions; budgets and names stay what they are."""
        fractions = {
            name: round(strength * value, 6)
            for name in ("ratio", "flops_ratio", "depth")
            if (value := getattr(self.options, name)) is not None
        }
        return self.changed(**fractions)

    def _plan_by_weights(self, student: keras.Model) -> ShrinkPlan:
        kind = "l1" if self.options.importance == "taylor" else self.options.importance
        return make_plan(student, self.options, Importance(kind))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            **super().get_config(),
            **{key: value for key, value in vars(self.options).items()},
            **self.options.choice.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        return super().from_config(choice_from_config(config))


_OPTIONS = {field.name for field in dataclasses.fields(ShrinkOptions)}


def _taught_loss(state: StudentState, teaching: Any) -> Callable[[Any, Any, Any, Any], Any]:
    objective = teaching.objective_for(state)

    def loss(x: Any, y: Any, sample_weight: Any, model: Any) -> Any:
        signals = objective.teacher_signals(x)
        y_pred, features = objective.student_pass(model, x, training=False)
        return objective.losses(signals, y, y_pred, features, sample_weight)["loss"]

    return loss
