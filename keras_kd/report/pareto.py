"""Pareto fronts: which models no other one is superior to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Measurements of a file that are set against accuracy.
COSTS = ("bytes", "zipped_bytes", "latency_ms")


def cost_of(model: Mapping[str, Any], cost: str) -> float | None:
    """Return what a model costs, or `None` where it was not measured.

    Args:
        model: A model of a result.
        cost: One of `COSTS`. The latency is that of an example, a part of the file's fixed batch.
    """
    file = model["file"]
    value: float | None = None if file is None else file.get(cost)
    if value is None or cost != "latency_ms":
        return value
    return value / file.get("latency_batch", 1)


def merit_of(model: Mapping[str, Any], by: Mapping[str, str] | None = None) -> float | None:
    """Return what a model is judged by, or `None` where it was not measured.

    Args:
        model: A model of a result.
        by: `{"metric": ..., "mode": "max" or "min"}`: one of its metrics. Defaults to `None`: the
            accuracy.
    """
    value: float | None
    value = model["accuracy"]["mean"] if by is None else model.get("metrics", {}).get(by["metric"])
    return value


def drawable(
    models: Sequence[Mapping[str, Any]], cost: str, by: Mapping[str, str] | None = None
) -> list[Mapping[str, Any]]:
    """Return the models of which both the cost and what they are judged by were measured."""
    return [m for m in models if merit_of(m, by) is not None and cost_of(m, cost)]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, accuracy) to which no other point is superior.

    Args:
        points: Pairs of a cost, where less is better, and an accuracy, where more is better.

    Returns:
        Indices by ascending cost. Of equal points, the first counts.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def hypervolume(points: Sequence[tuple[float, float]], corner: tuple[float, float]) -> float:
    """Return the area of what the points are superior to, as far as a corner.

    Args:
        points: Pairs of a cost, where less is better, and an accuracy, where more is better.
        corner: The cost and the accuracy at which the area ends.

    Reference:
        Zitzler and Thiele, Multiobjective Evolutionary Algorithms, 1999.
    """
    most, least = corner
    inside = [point for point in points if point[0] < most and point[1] > least]
    front = [inside[i] for i in pareto_front(inside)]
    ends = [*(cost for cost, _ in front[1:]), most]
    return sum(
        (end - cost) * (accuracy - least) for (cost, accuracy), end in zip(front, ends, strict=True)
    )


def front_keys(
    models: Sequence[Mapping[str, Any]], cost: str, by: Mapping[str, str] | None = None
) -> list[str]:
    """Return the keys of the models on the front, by ascending cost."""
    models = drawable(models, cost, by)
    sign = -1.0 if by is not None and by["mode"] == "min" else 1.0
    points = [(cost_of(m, cost) or 0.0, sign * (merit_of(m, by) or 0.0)) for m in models]
    return [models[i]["key"] for i in pareto_front(points)]
