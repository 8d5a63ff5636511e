"""Which engine a search has, what its processes are, and which trials are the more promising."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence

import numpy as np

from keras_kd.planning.search.trials import FACTOR
from keras_kd.report.pareto import hypervolume, pareto_front
from keras_kd.system.names import one_of

ENGINES = ("hyperband", "random", "bayesian", "grid")
# Tracing, exporting and measuring a small student takes as long as about so many of its steps. A
# whole training of fewer is hardly longer than a ninth of it.
_WORTH_STOPPING = 1000
# Of costs and scores that lie in 0..1: the worst of both adds something to a hypervolume too.
_CORNER = (1.1, -0.1)


def role() -> str:
    """Return what this process is: `"alone"`, `"chief"` or `"worker"`, by KerasTuner's variables.

    Raises:
        ImportError: If KerasTuner is not installed.
        ValueError: If only some of its variables are set.
    """
    if importlib.util.find_spec("keras_tuner") is None:
        raise ImportError(
            "`search` needs KerasTuner, which is not installed. "
            'Run: pip install "keras-kd[search]".'
        )
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    values = [os.environ.get(name) for name in names]
    if values == [None, None, None]:
        return "alone"
    if None in values:
        raise ValueError(
            f"A search by several processes needs {', '.join(names)} in the environment. "
            f"Received: {dict(zip(names, values, strict=True))}."
        )
    return "chief" if "chief" in str(values[0]) else "worker"


def halving(epochs: int) -> list[tuple[int, int]]:
    """Return, for each bracket of Hyperband, its new candidates and the trials that it takes.

    Args:
        epochs: Epochs of a whole training.
    """
    brackets = int(math.log(epochs, FACTOR) + 1e-9) + 1
    last = math.ceil(1 + math.log(epochs, FACTOR))
    sizes = [
        [math.ceil(last / (bracket + 1) * FACTOR ** (bracket - i)) for i in range(bracket + 1)]
        for bracket in reversed(range(brackets))
    ]
    return [(size[0], sum(size)) for size in sizes]


def choose_engine(
    engine: str | None, candidates: int, epochs: int, trials: int | None, steps: int
) -> str:
    """Return the engine: the one asked for, or the one that trains some candidates to the end.

    Args:
        engine: The one asked for, or `None`.
        candidates: Number of candidates.
        epochs: Epochs of a whole training.
        trials: Number of trials, or `None`.
        steps: Steps of a whole training.

    Raises:
        ValueError: If there is no such engine.
    """
    if engine is not None:
        one_of("engine", engine, ENGINES)
        return engine
    brackets = halving(epochs)
    enough = trials is None or trials >= brackets[0][1]
    pays = epochs >= FACTOR and steps >= _WORTH_STOPPING
    if pays and enough and candidates >= sum(new for new, _ in brackets):
        return "hyperband"
    # What the other chooses depends on which of several workers is the faster.
    return "bayesian" if role() == "alone" else "random"


def ranked(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points (cost, score), the most promising first.

    The points of the Pareto front come first, then those of the front of the others, and so on. On
    a front, in turn: the best score of those that are left, and what adds the most hypervolume to
    those before it. So one half of the first few is the most accurate, and the other spreads.

    Args:
        points: Pairs of a cost, where less is better, and a score, where more is better.

    Reference:
        Schmucker et al., Multi-objective Asynchronous Successive Halving, 2021, arXiv:2106.12639.
    """
    if not points:
        return []
    places = np.array([(math.log(max(cost, 1.0)), score) for cost, score in points])
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-12)
    left, order = list(range(len(points))), []
    while left:
        layer = [left[i] for i in pareto_front([points[i] for i in left])][::-1]
        left = [i for i in left if i not in layer]
        chosen: list[int] = []
        while layer:
            areas = [hypervolume(places[[*chosen, i]].tolist(), _CORNER) for i in layer]
            best = int(np.argmax(areas)) if len(chosen) % 2 else 0
            chosen.append(layer.pop(best))
        order += chosen
    return order
