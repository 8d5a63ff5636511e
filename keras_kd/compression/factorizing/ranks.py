"""Deciding which layers are factorized, in which way and at which rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_kd.compression.factorizing.factorization import Factorization, factorizations
from keras_kd.compression.stages.layer_choice import LayerChoice
from keras_kd.models.graph import graph_layers

Plan = dict[str, tuple[Factorization, int]]
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


def plan_by_energy(ways: Ways, energy: float, force: bool = False) -> Plan:
    """Choose the way with the fewest weights that keeps `energy`, where it saves weights.

    Args:
        ways: As of `ways_of`.
        energy: Part of the squared singular values to keep.
        force: Whether to choose one where it saves nothing, too. Defaults to `False`.
    """
    plan: Plan = {}
    for path, found in ways.items():
        options = [(way, way.rank_of(energy)) for way in found]
        way, rank = min(options, key=lambda option: option[0].parameters(option[1]))
        if force or way.parameters(rank) < way.kernel_size:
            plan[path] = (way, rank)
    return plan


def plan_by_ratio(ways: Ways, ratio: float, force: bool = False) -> Plan:
    """Choose the way that keeps most energy with at most `ratio` of the kernel's weights.

    Args:
        ways: As of `ways_of`.
        ratio: Largest part of the kernel's weights that its factors may have.
        force: Whether to choose one where it saves nothing, too. Defaults to `False`.
    """
    plan: Plan = {}
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


def plan_by_budget(ways: Ways, parameters: int, max_parameters: int) -> Plan:
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


def saved(plan: Plan) -> int:
    """Return the number of weights that a plan saves."""
    return sum(way.kernel_size - way.parameters(rank) for way, rank in plan.values())
