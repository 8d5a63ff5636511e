"""Choosing the channels to remove, to a ratio or within a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.channel_groups import Groups
from keras_kd.models.costs import operation_macs


@dataclasses.dataclass
class Selection:
    """Which channels remain; `kept[i]` says it of channel `i`."""

    kept: np.ndarray

    def size(self, axis: np.ndarray) -> int:
        """Return the number of channels that remain along an axis."""
        return int(self.kept[axis].sum())


class Selector:
    """Removes the least important groups.

    Args:
        analysis: The analysis of the model.
        groups: Its groups of channels.
        importance: The importance of every group.
        uniform: Whether the same fraction of every family of layers goes, in place of the least
            important groups of the whole model.
        min_channels: How many channels of a layer must remain, where it has so many.
        divisor: What the number of channels that remain must be a multiple of. Defaults to `1`.
    """

    def __init__(
        self,
        analysis: Analysis,
        groups: Groups,
        importance: np.ndarray,
        uniform: bool,
        min_channels: int,
        divisor: int = 1,
    ) -> None:
        self._divisor = divisor
        self._groups = groups
        self._importance = importance
        self._uniform = uniform
        self._removable = groups.removable
        order = np.lexsort((self._removable, importance[self._removable]))
        self._order = self._removable[order]
        self._limits = _limits(analysis, groups, min_channels)

    def select(self, ratio: float) -> Selection:
        """Return what remains when a fraction of the removable channels goes.

        Args:
            ratio: The fraction, from 0 to 1. Less goes where too few channels would remain.
        """
        quota = self._quotas(ratio) if self._uniform else {-1: round(ratio * len(self._order))}
        members, remaining = self._limits[0], list(self._limits[1])
        least = self._limits[2]
        removed = np.zeros(len(self._groups.group), dtype=bool)
        for group in self._order.tolist():
            family = int(self._groups.family[group]) if self._uniform else -1
            if quota.get(family, 0) <= 0:
                continue
            met = members.get(group, ())
            if any(remaining[i] - n < least[i] for i, n in met):
                continue
            for i, n in met:
                remaining[i] -= n
            removed[group] = True
            quota[family] -= 1
        self._keep_multiples(removed, remaining)
        return Selection(~removed[self._groups.group])

    def _keep_multiples(self, removed: np.ndarray, remaining: list[int]) -> None:
        """Take the most important groups back until every layer has a multiple of the divisor."""
        members, sizes, _, heads = self._limits
        todo = [i for i in range(len(sizes)) if not heads[i]]
        while todo:
            axis = todo.pop()
            if remaining[axis] % self._divisor == 0 or remaining[axis] == sizes[axis]:
                continue
            for group in self._order[::-1].tolist():
                met = members.get(group, ()) if removed[group] else ()
                if any(i == axis for i, _ in met):
                    removed[group] = False
                    for i, n in met:
                        remaining[i] += n
                        if not heads[i]:
                            todo.append(i)
                    break

    def _quotas(self, ratio: float) -> dict[int, int]:
        everything = np.unique(self._groups.group[1:])
        families, counts = np.unique(self._groups.family[everything], return_counts=True)
        # Halves are rounded so that more remains.
        return {
            int(family): int(np.ceil(ratio * n - 0.5))
            for family, n in zip(families, counts, strict=True)
        }


def _limits(
    analysis: Analysis, groups: Groups, min_channels: int
) -> tuple[dict[int, list[tuple[int, int]]], list[int], list[int], list[bool]]:
    """Return the axes of each group and how often it is met; their sizes, minima, and if heads."""
    members: dict[int, list[tuple[int, int]]] = {}
    sizes: list[int] = []
    least: list[int] = []
    are_heads: list[bool] = []
    seen: set[bytes] = set()
    for axis, heads in analysis.limits:
        numbers = groups.of(axis)
        if numbers.tobytes() in seen:
            continue
        seen.add(numbers.tobytes())
        met, counts = np.unique(numbers, return_counts=True)
        for group, count in zip(met.tolist(), counts.tolist(), strict=True):
            members.setdefault(group, []).append((len(sizes), count))
        sizes.append(len(axis))
        least.append(1 if heads else min(min_channels, len(axis)))
        are_heads.append(bool(heads))
    return members, sizes, least, are_heads


def planned_parameters(analysis: Analysis, selection: Selection, total: int) -> int:
    """Return the number of parameters that remain.

    Args:
        analysis: The analysis of the model.
        selection: What remains.
        total: The parameters of the model that was analyzed, dropped blocks left out.
    """
    for weight in analysis.weights.values():
        shape = tuple(weight.variable.shape)
        total += int(np.prod(_shape(shape, weight.axes, selection))) - int(np.prod(shape))
    return total


def planned_macs(analysis: Analysis, selection: Selection) -> int:
    """Return the multiply-accumulate operations of one pass over what remains."""
    total = 0
    for call in analysis.calls:
        weights = {}
        for variable in getattr(call.operation, "weights", []):
            known = analysis.weights.get(id(variable))
            shape = tuple(variable.shape)
            weights[id(variable)] = shape if known is None else _shape(shape, known.axes, selection)
        total += (
            operation_macs(
                call.node,
                [
                    _shape(shape, axes, selection)
                    for shape, axes in zip(call.input_shapes, call.inputs, strict=True)
                ],
                [
                    _shape(shape, axes, selection)
                    for shape, axes in zip(call.output_shapes, call.outputs, strict=True)
                ],
                weights,
            )
            or 0
        )
    return total


def _shape(shape: tuple, axes: tuple, selection: Selection) -> tuple:
    return tuple(
        n if axis is None else selection.size(axis) for n, axis in zip(shape, axes, strict=True)
    )


def least_ratio(fits: Callable[[float], bool], steps: int = 24) -> float | None:
    """Return the smallest ratio for which `fits` holds, found by halving, or `None`."""
    if fits(0.0):
        return 0.0
    if not fits(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high
