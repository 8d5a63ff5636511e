"""Shrink: remove channels, heads and blocks from a student."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import keras

from keras_kd.compression.shrinking.importance import (
    IMPORTANCES,
    REDUCTIONS,
    Importance,
    taylor_scores,
)
from keras_kd.compression.shrinking.plan import ShrinkPlan, decide
from keras_kd.compression.stages.stage import Plan, Stage, StudentState
from keras_kd.models.layer_choice import Choice
from keras_kd.models.layer_plan import LayerPlan
from keras_kd.system.arguments import number
from keras_kd.system.names import one_of


class ShrinkOptions(TypedDict, total=False):
    """The arguments of `Shrink` that `shrink` passes on; what they mean is documented there."""

    max_flops: float | None
    flops_ratio: float | None
    max_parameters: int | None
    importance: str
    batches: int
    scope: str
    reduction: str
    min_channels: int
    layers: Choice
    exclude: Choice
    drop: str | Sequence[str] | None
    depth: float | None
    layer_norm: bool
    divisor: int


@keras.saving.register_keras_serializable(package="keras_kd")
class Shrink(Stage):
    """Makes a student smaller by removing whole channels, attention heads and blocks.

    The result is a smaller Keras 3 model, which is then trained with distillation.
    `keras_kd.shrink` does the same without training. Hints at layers that still exist are kept; if
    the number of channels changed, their projections are created again.

    Args:
        ratio: Fraction of the channels (and of the attention heads) to remove, at least 0 and
            below 1. Defaults to `None`.
        epochs: Number of epochs of training afterwards; 0 for none. Defaults to `1`.
        max_flops: FLOPs of one pass over one example that may remain, two for each
            multiply-accumulate (see `model_cost`). As few channels go as are needed. Defaults to
            `None`.
        flops_ratio: Fraction of the FLOPs to remove at least. Defaults to `None`.
        max_parameters: Number of parameters that may remain. Defaults to `None`.
        importance: `"l1"`, the magnitude of a channel's weights; `"batch_norm"`, the magnitude of
            its scale in batch normalization; or `"taylor"`, the change of the loss, to first
            order, when it goes: of the distiller's loss on some batches of the training data.
            Defaults to `"l1"`.
        batches: Number of batches for `"taylor"`. Defaults to `10`.
        scope: `"uniform"` removes the same fraction everywhere; `"global"` ranks the channels of
            the whole model. Defaults to `"uniform"`.
        reduction: `"mean"` or `"sum"` of the importances in all the weights that must go with a
            channel. Defaults to `"mean"`.
        min_channels: Channels of a layer that must remain, where it has so many. Defaults to `1`.
        divisor: What the number of channels that remain must be a multiple of, such as 8 for
            kernels that compute 8 channels at once. More remain where it does not come out; a
            layer none of whose multiples fits keeps all its channels. Heads are not counted.
            Defaults to `1`.
        layers: The layers that may lose channels, as in `Stage`. Channels that are coupled with
            those of another layer stay. Defaults to `None`: all.
        exclude: The layers that keep their channels, as in `Stage`. Defaults to `None`: none.
        drop: Residual blocks to drop, by the name (or pattern) of the addition that ends them;
            transformer layers, nested models or other layers whose output has the shape of their
            input, by their own. Defaults to `None`.
        depth: Fraction of such blocks to drop, those of least importance. Defaults to `None`.
        layer_norm: Whether channels that a LayerNormalization normalizes over may go. Its mean is
            then that of the channels left, so that outputs are not those of the model with
            channels at zero. Defaults to `False`.
        optimizer: As in `Stage`. Defaults to `None`: Adam.
        learning_rate: As in `Stage`. Defaults to `None`: `1e-3`.
        name: As in `Stage`. Defaults to `"shrink"`.

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
        layers: Choice = None,
        exclude: Choice = None,
        drop: str | Sequence[str] | None = None,
        depth: float | None = None,
        layer_norm: bool = False,
        divisor: int = 1,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name, layers, exclude)
        self.ratio, self.max_flops, self.flops_ratio = ratio, max_flops, flops_ratio
        self.max_parameters, self.importance, self.batches = max_parameters, importance, batches
        self.scope, self.reduction, self.min_channels = scope, reduction, min_channels
        self.drop, self.depth, self.layer_norm, self.divisor = drop, depth, layer_norm, divisor
        self._check_arguments()

    def _check_arguments(self) -> None:
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
        one_of("importance", self.importance, IMPORTANCES)
        one_of("scope", self.scope, ("uniform", "global"))
        one_of("reduction", self.reduction, REDUCTIONS)
        for name in ("min_channels", "batches", "divisor"):
            number(name, getattr(self, name), least=1, whole=True)
        budgets = [
            name
            for name in ("max_flops", "flops_ratio", "max_parameters")
            if getattr(self, name) is not None
        ]
        if self.ratio is not None and budgets:
            raise ValueError(
                f"`ratio` sets the fraction of channels to remove, and `{budgets[0]}` a "
                "budget: give one of them."
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

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Decide how many channels go from each layer, and why others keep theirs.

        With `importance="taylor"` it is the plan by weights: which channels go, and with
        `scope="global"` how many of a layer, is known once data was seen.
        """
        kind = "l1" if self.importance == "taylor" else self.importance
        plan = decide(student, self, Importance(kind))
        return Plan(_layer_plans(plan), functools.partial(self._apply, plan), plan.apply)

    def _apply(self, plan: ShrinkPlan, state: StudentState, teaching: Any) -> None:
        if self.importance == "taylor":
            loss = _taught_loss(state, teaching)
            scores = taylor_scores(state.model, teaching.examples, loss, self.batches)
            plan = decide(state.model, self, Importance("taylor", scores))
        state.model = plan.apply()
        layers = {layer.name: layer for layer in plan.layers}

        def done(path: str) -> str:
            return f"shrunk from {layers[path].change}" if layers[path].after else "dropped"

        state.take_notes(_layer_plans(plan), "not shrunk", done)
        teaching.train_student(state, self)

    def gentler(self) -> Stage | None:
        """Return a stage that removes two thirds as much, or one of half as large a budget again.

        Blocks that are named in `drop` go in any case.
        """
        less = {
            name: round(value * 2 / 3, 4)
            for name in ("ratio", "flops_ratio", "depth")
            if (value := getattr(self, name)) is not None
        }
        if less and max(less.values()) < 0.05:
            return None
        for name in ("max_flops", "max_parameters"):
            value = getattr(self, name)
            if value is not None:
                less[name] = round(1.5 * value)
        return self.changed(**less) if less else None

    def at_strength(self, strength: float) -> Stage:
        """Return a stage of a part of the fractions; budgets and names stay what they are."""
        fractions = {
            name: round(strength * value, 6)
            for name in ("ratio", "flops_ratio", "depth")
            if (value := getattr(self, name)) is not None
        }
        return self.changed(**fractions)


def _layer_plans(plan: ShrinkPlan) -> dict[str, LayerPlan]:
    return {
        layer.name: LayerPlan("drop")
        if layer.after == 0
        else LayerPlan.spared(layer.reason)
        if layer.reason
        else LayerPlan(layer.change)
        for layer in plan.layers
    }


def _taught_loss(state: StudentState, teaching: Any) -> Callable[[Any, Any, Any, Any], Any]:
    objective = teaching.objective_for(state)

    def loss(x: Any, y: Any, sample_weight: Any, model: Any) -> Any:
        signals = objective.teacher_signals(x)
        y_pred, features = objective.student_pass(model, x, training=False)
        return objective.losses(signals, y, y_pred, features, sample_weight)["loss"]

    return loss
