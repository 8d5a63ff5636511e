"""LowRank: write layers of a student as two smaller ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_kd.compression.factorizing.factorization import Factorization, factorizations
from keras_kd.compression.factorizing.split_layers import split_layers
from keras_kd.compression.stages.layer_record import already_pruned
from keras_kd.compression.stages.stage import Plan, Stage, StudentState
from keras_kd.models.graph import graph_layers, is_graph
from keras_kd.models.layer_choice import LayerChoice, first_reasons
from keras_kd.models.layer_plan import LayerPlan, Reason
from keras_kd.system.arguments import number
from keras_kd.system.user_warning import warn_user


@keras.saving.register_keras_serializable(package="keras_kd")
class LowRank(Stage):
    """Factorizes the kernels of a student by their singular values, then distils it.

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
        layers: The layers to factorize, as in `Stage`. Defaults to `None`: all that can be.
        exclude: The layers to spare, as in `Stage`. Defaults to `None`: none.
        optimizer: As in `Stage`. Defaults to `None`: Adam.
        learning_rate: As in `Stage`. Defaults to `None`: `1e-3`.
        name: As in `Stage`. Defaults to `"low_rank"`.

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
        super().__init__(epochs, optimizer, learning_rate, name, layers, exclude)
        goals = {"energy": energy, "ratio": ratio, "max_parameters": max_parameters}
        given = [goal for goal, value in goals.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"LowRank: give one of `energy`, `ratio` and `max_parameters`. Received: "
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
        self._may_save_nothing = False

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Decide which layers are written as two, at which rank, and why others are not."""
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
        ranks, skipped = self._ranks(student)
        layers = {
            path: LayerPlan(f"rank {rank} of {way.full_rank}")
            for path, (way, rank) in ranks.items()
        }
        layers |= {path: LayerPlan.spared(reason) for path, reason in skipped.items()}
        error = None
        try:
            self.choice.check(student, skipped)
            if not ranks and not self._may_save_nothing:
                raise ValueError(
                    f"LowRank saves no weight in model '{student.name}' with {self._goal()}"
                    f"{first_reasons(skipped)}. Ask for less, or leave this stage out."
                )
        except ValueError as found:  # a plan that saves nothing can be applied all the same
            error = found
        return Plan(
            layers,
            functools.partial(self._apply, ranks, layers),
            lambda: split_layers(student, ranks)[0],
            error,
        )

    def _apply(
        self, ranks: Ranks, layers: Mapping[str, LayerPlan], state: StudentState, teaching: Any
    ) -> None:
        if not ranks and not self._may_save_nothing:
            warn_user(f"LowRank: with {self._goal()} nothing is saved after the stages before it.")
        with teaching.distiller.distribute_strategy.scope():
            state.model, parts = split_layers(state.model, ranks)
        state.parts.update(parts)

        def done(path: str) -> str:
            way, rank = ranks[path]
            return (
                f"split at rank {rank} of {way.full_rank} ({way.kind}), "
                f"{way.parameters(rank)} of {way.kernel_size} weights, "
                f"{way.energy(rank):.1%} of the energy"
            )

        state.take_notes(layers, "not split", done)
        teaching.train_student(state, self)

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

    def _ranks(self, model: keras.Model) -> tuple[Ranks, dict[str, str]]:
        ways, skipped = ways_of(model, self.choice)
        if self.max_parameters is not None:
            ranks = plan_by_budget(ways, model.count_params(), self.max_parameters)
        elif self.ratio is not None:
            ranks = plan_by_ratio(ways, self.ratio, self.force)
        else:
            ranks = plan_by_energy(ways, float(self.energy or 0.0), self.force)
        for path in ways:
            if path not in ranks:
                skipped[path] = Reason(
                    f"two factors with {self._goal()} save no weight",
                    f"lower `{self._goal().partition('=')[0]}`",
                )
        return ranks, skipped

    def _goal(self) -> str:
        if self.max_parameters is not None:
            return f"max_parameters={self.max_parameters}"
        return f"energy={self.energy}" if self.ratio is None else f"ratio={self.ratio}"


Ranks = dict[str, tuple[Factorization, int]]
Ways = Mapping[str, Sequence[Factorization]]


def ways_of(
    model: Any, choice: LayerChoice
) -> tuple[dict[str, list[Factorization]], dict[str, str]]:
    """Find the layers of a Keras 3 model that can be written as two.

    Args:
        model: A built functional or sequential model.
        choice: The layers to treat.

    Returns:
        The ways by the path of the layer, and the reason by path for the other layers with weights.
    """
    ways: dict[str, list[Factorization]] = {}
    skipped: dict[str, str] = {}
    for path, layer in graph_layers(model):
        if not layer.weights:
            continue
        if isinstance(layer, keras.Model):
            skipped[path] = "it is a subclassed model, which has no graph of layers"
            continue
        found: Any = factorizations(layer)
        spared = None if isinstance(found, str) else choice.reason_to_spare(path, layer)
        if isinstance(found, str) or spared:
            skipped[path] = spared or found
        else:
            ways[path] = found
    return ways, skipped


def plan_by_energy(ways: Ways, energy: float, force: bool = False) -> Ranks:
    """Choose the way with the fewest weights that keeps `energy`, where it saves weights.

    Args:
        ways: As of `ways_of`.
        energy: Part of the squared singular values to keep.
        force: Whether to choose one where it saves nothing, too. Defaults to `False`.
    """
    plan: Ranks = {}
    for path, found in ways.items():
        options = [(way, way.rank_of(energy)) for way in found]
        way, rank = min(options, key=lambda option: option[0].parameters(option[1]))
        if force or way.parameters(rank) < way.kernel_size:
            plan[path] = (way, rank)
    return plan


def plan_by_ratio(ways: Ways, ratio: float, force: bool = False) -> Ranks:
    """Choose the way that keeps most energy with at most `ratio` of the kernel's weights.

    Args:
        ways: As of `ways_of`.
        ratio: Largest part of the kernel's weights that its factors may have.
        force: Whether to choose one where it saves nothing, too. Defaults to `False`.
    """
    plan: Ranks = {}
    for path, found in ways.items():
        options = [
            (way, min(int(ratio * way.kernel_size / way.parameters_per_rank), way.full_rank))
            for way in found
        ]
        options = [
            (way, max(rank, 1))
            for way, rank in options
            if force or (rank >= 1 and way.parameters(rank) < way.kernel_size)
        ]
        if options:
            plan[path] = max(options, key=lambda option: option[0].energy(option[1]))
    return plan


def plan_by_budget(ways: Ways, parameters: int, max_parameters: int) -> Ranks:
    """Choose the largest common energy whose plan meets a budget.

    Args:
        ways: As of `ways_of`.
        parameters: Number of weights of the model.
        max_parameters: Number of weights that it may have.

    Raises:
        ValueError: If rank 1 in every layer is not enough.
    """
    if parameters <= max_parameters:
        return {}
    least = plan_by_energy(ways, 0.0)
    smallest = parameters - saved(least)
    if smallest > max_parameters:
        raise ValueError(
            f"LowRank cannot bring the student down to max_parameters={max_parameters}: it has "
            f"{parameters} weights, and {smallest} with rank 1 in every layer that can be "
            f"factorized. Ask for more than {smallest}, or use a smaller student."
        )
    low, high, best = 0.0, 1.0, least
    for _ in range(40):
        middle = (low + high) / 2
        plan = plan_by_energy(ways, middle)
        if parameters - saved(plan) <= max_parameters:
            low, best = middle, plan
        else:
            high = middle
    return best


def saved(plan: Ranks) -> int:
    """Return the number of weights that a plan saves."""
    return sum(way.kernel_size - way.parameters(rank) for way, rank in plan.values())
