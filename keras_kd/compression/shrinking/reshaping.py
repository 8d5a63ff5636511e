"""Channels through a change of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.channel_groups import Axes, Axis


def reshaped(
    call: Call, axes: Axes, before: Sequence[int | None], after: Sequence[int | None]
) -> Axes:
    """Return the channels along each axis of a reshaped tensor.

    Axes that are merged keep every channel at its places, as in flattening. An axis that is split
    keeps its channels along the part that they lie along; where they lie along several parts, the
    last of these keeps them and the channels at equal places of it are coupled.

    Args:
        call: The call.
        axes: The channels along each axis of the input.
        before: The shape of the input.
        after: The shape of the output.
    """
    result: list[Axis] = [None] * len(after)
    for ins, outs in _blocks(list(before), list(after)):
        given = [axes[i] for i in ins]
        if all(axis is None for axis in given):
            continue
        if not outs:
            for axis in given:
                call.keep(axis, f"{call.name} moves this axis into another")
            continue
        sizes, new = [before[i] for i in ins], [after[i] for i in outs]
        labeled = [i for i, axis in enumerate(given) if axis is not None]
        if len(ins) == len(outs) == 1:
            result[outs[0]] = given[0]
        elif None in sizes or None in new or len(labeled) > 1:
            for axis in given:
                call.keep(axis, f"{call.name} mixes several axes that could shrink")
        else:
            only = given[labeled[0]]
            shape = [-1 if i == labeled[0] else 1 for i in range(len(ins))]
            places = np.broadcast_to(
                np.asarray(only).reshape(shape), [int(n or 1) for n in sizes]
            ).reshape([int(n or 1) for n in new])
            position, axis = _split(call, places)
            if axis is not None:
                result[outs[position]] = axis
    return tuple(result)


def _split(call: Call, places: np.ndarray) -> tuple[int, Axis]:
    varying = [i for i in range(places.ndim) if (places != places.take([0], axis=i)).any()]
    position = varying[-1] if varying else places.ndim - 1
    rows = np.moveaxis(places, position, -1).reshape(-1, places.shape[position])
    axis: Axis = rows[0]
    for row in rows[1:] if len(varying) > 1 else ():
        axis = call.join(axis, row)
    return position, axis


def _blocks(before: list[int | None], after: list[int | None]) -> list[tuple[list[int], list[int]]]:
    """Pair the axes before and after, as few at a time as hold equally many values."""
    tail: list[tuple[list[int], list[int]]] = []
    stop_before, stop_after = len(before), len(after)
    first = 1  # the batch stays
    while stop_before > first and stop_after > first:
        n, m = before[stop_before - 1], after[stop_after - 1]
        if n is None or n != m:
            break
        stop_before, stop_after = stop_before - 1, stop_after - 1
        tail.append(([stop_before], [stop_after]))
    left, right = before[first:stop_before], after[first:stop_after]
    middle = _middle(left, right)
    if None not in left + right and _product(left) != _product(right):
        middle = [(list(range(len(left))), [])]  # the batch holds some of their values
    blocks: list[tuple[list[int], list[int]]] = [([0], [0])]
    blocks += [([i + first for i in ins], [j + first for j in outs]) for ins, outs in middle]
    return blocks + tail[::-1]


def _middle(before: list[int | None], after: list[int | None]) -> list[tuple[list[int], list[int]]]:
    """Pair axes that hold equally many values; all at once where sizes are unknown."""
    if None in before or None in after:
        rest = before[1:], after[1:]
        if before[:1] != [None] or after[:1] != [None] or None in rest[0] or None in rest[1]:
            return [(list(range(len(before))), list(range(len(after))))]
        if _product(rest[0]) != _product(rest[1]):
            return [(list(range(len(before))), list(range(len(after))))]
        inner = _middle(*rest)
        return [([0], [0]), *(([i + 1 for i in a], [j + 1 for j in b]) for a, b in inner)]
    blocks: list[tuple[list[int], list[int]]] = []
    ins: list[int] = []
    outs: list[int] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = _product([before[k] for k in ins]), _product([after[k] for k in outs])
        if i < len(before) and (left <= right or j == len(after)):
            ins.append(i)
            i += 1
        else:
            outs.append(j)
            j += 1
        held = _product([before[k] for k in ins]), _product([after[k] for k in outs])
        if ins and outs and held[0] == held[1]:
            blocks.append((ins, outs))
            ins, outs = [], []
    return [*blocks, (ins, outs)] if ins or outs else blocks


def _product(sizes: Sequence[int | None]) -> int:
    return math.prod(n for n in sizes if n is not None)
