"""Which channels of a model can only be removed together."""

from __future__ import annotations

import dataclasses

import numpy as np

# The channels along one axis of a tensor or a weight; `None` for an axis that keeps its size.
Axis = np.ndarray | None
Axes = tuple[Axis, ...]

_KEPT = 0


@dataclasses.dataclass(frozen=True)
class Groups:
    """The solved dependencies: groups of channels that stay or go together.

    Attributes:
        group: The group of every channel; channel 0 stands for everything that stays.
        source: The index in `sources` of the layer that makes each channel.
        sources: The paths of the layers that make channels.
        family: The family of every group. The channels of a layer and those coupled with them are
            one family, such as all the layers that are added up along a residual stage.
        reasons: Why a group must stay, by group.
    """

    group: np.ndarray
    source: np.ndarray
    sources: tuple[str, ...]
    family: np.ndarray
    reasons: dict[int, str]

    def of(self, axis: np.ndarray) -> np.ndarray:
        """Return the group of each channel of an axis."""
        return self.group[axis]

    @property
    def removable(self) -> np.ndarray:
        """The groups that may go."""
        groups = np.unique(self.group[1:])
        kept = np.fromiter(self.reasons, dtype=np.int64, count=len(self.reasons))
        return groups[~np.isin(groups, kept)]


class ChannelGroups:
    """Gathers which channels depend on each other.

    Every channel that a layer makes is a number. An axis is the array of the channels along it,
    so that concatenation, flattening and splitting are those operations on arrays, and an addition
    joins two arrays element by element. In this way the dependency graph of Fang et al. holds
    single channels in place of whole layers.

    Reference:
        Fang et al., DepGraph: Towards Any Structural Pruning, 2023, arXiv:2301.12900.
    """

    def __init__(self) -> None:
        self._count = 1
        self._sources: list[str] = []
        self._source: list[np.ndarray] = [np.array([-1])]
        self._joined: list[tuple[np.ndarray, np.ndarray]] = []
        self._kept: list[tuple[np.ndarray, str]] = []

    def new(self, count: int, source: str) -> np.ndarray:
        """Return `count` new channels.

        Args:
            count: Number of channels.
            source: Path of the layer that makes them.
        """
        channels = np.arange(self._count, self._count + count)
        self._count += count
        self._source.append(np.full(count, len(self._sources)))
        self._sources.append(source)
        return channels

    def join(self, first: Axis, second: Axis, reason: str) -> Axis:
        """Couple two axes element by element.

        Args:
            first: An axis.
            second: Another of the same size.
            reason: Why the channels of the one stay where the other's size is fixed.

        Returns:
            The common axis.
        """
        if first is None or second is None:
            self.keep(first, reason)
            self.keep(second, reason)
            return None
        self.keep(first[second == _KEPT], reason)
        self.keep(second[first == _KEPT], reason)
        both = (first != second) & (first != _KEPT) & (second != _KEPT)
        if both.any():
            self._joined.append((first[both], second[both]))
        return first

    def keep(self, axis: Axis, reason: str) -> None:
        """Make the channels of an axis stay."""
        if axis is not None and axis.any():
            self._kept.append((np.unique(axis[axis != _KEPT]), reason))

    def solve(self) -> Groups:
        """Return the groups."""
        first = np.concatenate([np.zeros(0, np.int64), *(a for a, _ in self._joined)])
        second = np.concatenate([np.zeros(0, np.int64), *(b for _, b in self._joined)])
        group = connected(self._count, first, second)
        source = np.concatenate(self._source)
        # A family: groups that a layer makes, or that share a layer.
        owners = connected(self._count + len(self._sources), group[1:], self._count + source[1:])
        reasons: dict[int, str] = {_KEPT: ""}
        for channels, reason in self._kept:
            for number in np.unique(group[channels]).tolist():
                reasons.setdefault(number, reason)
        return Groups(group, source, tuple(self._sources), owners[: self._count], reasons)


def kept_axis(size: int) -> np.ndarray:
    """Return an axis of channels that stay, to be put beside channels that may go."""
    return np.full(size, _KEPT)


def connected(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the smallest member of the connected component of every node.

    Args:
        count: Number of nodes.
        first: One end of every edge.
        second: The other end.
    """
    root = np.arange(count)
    while True:
        a, b = root[first], root[second]
        if (a == b).all():
            return root
        smaller = np.minimum(a, b)
        np.minimum.at(root, a, smaller)
        np.minimum.at(root, b, smaller)
        while (root != root[root]).any():
            root = root[root]
