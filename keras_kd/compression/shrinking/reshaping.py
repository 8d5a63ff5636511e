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
        sizes, new = [before[i] for i in ins], [after[i] for i in outs]
        labelled = [i for i, axis in enumerate(given) if axis is not None]
        if len(ins) == len(outs) == 1:
            result[outs[0]] = given[0]
        elif None in sizes or None in new or len(labelled) > 1:
            for axis in given:
                call.keep(axis, f"{call.name} mixes several axes that could shrink")
        else:
            only = given[labelled[0]]
            shape = [-1 if i == labelled[0] else 1 for i in range(len(ins))]
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
    i = j = first
    blocks: list[tuple[list[int], list[int]]] = [([0], [0])]
    while i < stop_before or j < stop_after:
        ins, outs = [], []
        if i < stop_before:
            ins.append(i)
            i += 1
        if j < stop_after:
            outs.append(j)
            j += 1
        while True:
            held = [before[k] for k in ins], [after[k] for k in outs]
            if None in held[0] or None in held[1]:
                if held[0] == held[1] == [None]:
                    break
                ins += range(i, stop_before)
                outs += range(j, stop_after)
                i, j = stop_before, stop_after
                break
            left = math.prod(n for n in held[0] if n is not None)
            right = math.prod(n for n in held[1] if n is not None)
            if left == right:
                break
            if left < right and i < stop_before:
                ins.append(i)
                i += 1
            elif j < stop_after:
                outs.append(j)
                j += 1
            else:
                ins += range(i, stop_before)
                i = stop_before
                break
        blocks.append((ins, outs))
    return [block for block in blocks if block[0] and block[1]] + tail[::-1]
