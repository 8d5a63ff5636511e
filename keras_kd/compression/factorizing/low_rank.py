"""LowRank: write layers of a student as two smaller ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_kd.compression.factorizing.ranks import (
    Plan,
    plan_by_budget,
    plan_by_energy,
    plan_by_ratio,
    ways_of,
)
from keras_kd.compression.factorizing.split_layers import split_layers
from keras_kd.compression.stages.layer_choice import LayerChoice, choice_from_config
from keras_kd.compression.stages.layer_record import already_pruned
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.models.graph import is_graph
from keras_kd.models.layer_plan import LayerPlan, Reason
from keras_kd.system.arguments import number


@keras.saving.register_keras_serializable(package="keras_kd")
class LowRank(Stage):
    """Factorizes the kernels of a student by their singular values, then goes on teaching it.

    A dense layer becomes two with few units between them; a convolution becomes one to a few
    channels and one of size 1 behind it, or, where that saves more, a vertical one and a
    horizontal one. Dense, simple EinsumDense and convolutional layers are factorized, only
    where that saves weights. The second layer keeps name, bias and activation, so that a hint at
    it finds the same output; the first is linear and is called `<name>_low_rank`. The result is an
    ordinary Keras 3 model, functional or sequential, with nested models and shared layers as they
    were.

    Give one of `energy`, `ratio` and `max_parameters`.

    Args:
        energy: Part of each kernel's squared singular values to keep, above 0 and at most 1.
            Defaults to `None`: `0.95`, if neither of the other two is given.
        ratio: Largest part of a kernel's weights that its two factors may have, above 0 and at
            most 1. Defaults to `None`.
        max_parameters: Number of weights that the whole student may have; the same energy is kept
            in each kernel. Defaults to `None`.
        epochs: Number of epochs of training after the factorization; 0 for none. Defaults to `1`.
        force: Whether to factorize also where it saves nothing; with `energy=1.0` the outputs are
            those of the student before. Defaults to `False`.
        layers: The layers to factorize: a name, a list of names, or a function that takes a layer
            and tells. A name is a layer's own (`"conv1"`), its path inside a nested model
            (`"backbone/conv1"`) or a shell pattern of either (`"block3_*"`). Defaults to `None`:
            all that can be.
        exclude: The layers to spare, given in the same way. Defaults to `None`: none.
        optimizer: A Keras optimizer or its name. Defaults to `None`: Adam.
        learning_rate: Learning rate of the default optimizer. Defaults to `None`: `1e-3`.
        name: Name of the stage in the history. Defaults to `"low_rank"`.

    Raises:
        ValueError: If an argument is out of range, or more than one goal is given.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller, train, validation_data=validation, stages=[keras_kd.LowRank(0.9, epochs=4)]
    )
    ```

    Reference:
        Denton et al., Exploiting Linear Structure Within Convolutional Networks for Efficient
        Evaluation, 2014, arXiv:1404.0736 (singular values, fine-tuning); Jaderberg et al.,
        Speeding up Convolutional Neural Networks with Low Rank Expansions, 2014, arXiv:1405.3866
        (vertical and horizontal); Zhang et al., Accelerating Very Deep Convolutional Networks,
        2015, arXiv:1505.06798 (a convolution of size 1 behind it).
    """

    default_learning_rate = 1e-3

    def __init__(
        self,
        energy: float | None = None,
        ratio: float | None = None,
        max_parameters: int | None = None,
        epochs: int = 1,
        force: bool = False,
        layers: Any = None,
        exclude: Any = None,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name)
        goals = {"energy": energy, "ratio": ratio, "max_parameters": max_parameters}
        given = [goal for goal, value in goals.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"LowRank: give one of `energy`, `ratio` and `max_parameters`, but received "
                f"{' and '.join(f'{goal}={goals[goal]}' for goal in given)}."
            )
        for goal in ("energy", "ratio"):
            number(goal, goals[goal], above=0, most=1, optional=True, owner="LowRank")
        number(
            "max_parameters", max_parameters, least=1, whole=True, optional=True, owner="LowRank"
        )
        if force and max_parameters is not None:
            raise ValueError(
                "LowRank: `force` factorizes where nothing is saved, which cannot be meant together"
                " with `max_parameters`. Remove one of them."
            )
        self.energy = 0.95 if not given else energy
        self.ratio = ratio
        self.max_parameters = max_parameters
        self.force = bool(force)
        self.choice = LayerChoice("LowRank", layers, exclude)
        self._may_save_nothing = False

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse a student without a graph of layers, and one in which nothing is saved."""
        self.layer_plans(student, earlier)

    def layer_plans(self, student: keras.Model, earlier: Sequence[Stage]) -> dict[str, LayerPlan]:
        """Say which layers are written as two, at which rank, and why others are not."""
        if not is_graph(student) or not student.inputs:
            raise ValueError(
                f"LowRank rebuilds the graph of layers, which model '{student.name}' "
                f"({type(student).__name__}) has not. Write it as a functional model "
                "(keras.Model(inputs, outputs)), or leave this stage out; Prune takes it as it is."
            )
        if already_pruned(student):
            raise ValueError(
                f"LowRank: model '{student.name}' was pruned, and its zeros would be lost in the "
                "factors. Give the student as it was before, and prune after: "
                "stages=[LowRank(...), Prune(...)]."
            )
        plan, skipped = self._plan(student)
        self.choice.check(student, skipped)
        if not plan and not self._may_save_nothing:
            reasons = "; ".join(f"'{path}': {reason}" for path, reason in list(skipped.items())[:5])
            raise ValueError(
                f"LowRank saves no weight in model '{student.name}' with {self._goal()} "
                f"({reasons}). Ask for less, or leave this stage out."
            )
        plans = {
            path: LayerPlan(f"rank {rank} of {way.full_rank}") for path, (way, rank) in plan.items()
        }
        return plans | {path: LayerPlan.spared(reason) for path, reason in skipped.items()}

    def preview(self, student: keras.Model) -> keras.Model:
        """Return the student with its layers factorized."""
        return split_layers(student, self._plan(student)[0])[0]

    def run(self, state: StudentState, teaching: Any) -> None:
        """Factorize and train; the state's model stays a Keras 3 model."""
        plan, skipped = self._plan(state.model)
        if not plan and not self._may_save_nothing:
            warnings.warn(
                f"LowRank: with {self._goal()} nothing is saved after the stages before it.",
                stacklevel=2,
            )
        with teaching.distiller.distribute_strategy.scope():
            state.model, parts = split_layers(state.model, plan)
        state.parts.update(parts)
        for path, (way, rank) in plan.items():
            state.note(path).done.append(
                f"split at rank {rank} of {way.full_rank} ({way.kind}), "
                f"{way.parameters(rank)} of {way.kernel_size} weights, "
                f"{way.energy(rank):.1%} of the energy"
            )
        for path, reason in skipped.items():
            state.note(path).not_done.append(f"not split: {reason}")
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            state.history[self.name] = teaching.fit(trainer, self.epochs)

    def gentler(self) -> Stage | None:
        """Return a stage that loses half as much energy, or keeps half as many weights again."""
        if self.max_parameters is not None:
            return self.changed(max_parameters=round(1.5 * self.max_parameters))
        if self.ratio is not None:
            return self.changed(ratio=1.5 * self.ratio) if 1.5 * self.ratio <= 1.0 else None
        energy = 1.0 - (1.0 - float(self.energy or 0.0)) / 2
        return self.changed(energy=round(energy, 6)) if energy < 0.9995 else None

    def at_strength(self, strength: float) -> Stage:
        """Return a stage that loses a part of what this one loses; a budget stays what it is."""
        if self.max_parameters is not None:
            return self
        if self.ratio is not None:
            stage: Any = self.changed(ratio=round(1.0 - strength * (1.0 - self.ratio), 6))
        else:
            lost = strength * (1.0 - float(self.energy or 0.0))
            stage = self.changed(energy=round(1.0 - lost, 6))
        stage._may_save_nothing = strength < 1.0
        return stage

    def _plan(self, model: keras.Model) -> tuple[Plan, dict[str, str]]:
        ways, skipped = ways_of(model, self.choice)
        if self.max_parameters is not None:
            plan = plan_by_budget(ways, model.count_params(), self.max_parameters)
        elif self.ratio is not None:
            plan = plan_by_ratio(ways, self.ratio, self.force)
        else:
            plan = plan_by_energy(ways, float(self.energy or 0.0), self.force)
        for path in ways:
            if path not in plan:
                skipped[path] = Reason(
                    f"two factors with {self._goal()} save no weight",
                    f"lower `{self._goal().partition('=')[0]}`",
                )
        return plan, skipped

    def _goal(self) -> str:
        if self.max_parameters is not None:
            return f"max_parameters={self.max_parameters}"
        return f"energy={self.energy}" if self.ratio is None else f"ratio={self.ratio}"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            **super().get_config(),
            "energy": self.energy,
            "ratio": self.ratio,
            "max_parameters": self.max_parameters,
            "force": self.force,
            **self.choice.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        return super().from_config(choice_from_config(config))
