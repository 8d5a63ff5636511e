"""What decides on the next trial: the oracles of KerasTuner, ranking by two objectives."""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import pathlib
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.planning.search.candidates import Candidate
from keras_kd.planning.search.trials import FACTOR
from keras_kd.report.pareto import pareto_front
from keras_kd.system.names import one_of

ENGINES = ("hyperband", "random", "bayesian", "grid")
# What a failed trial reports; the largest of float32, in which KerasTuner's workers report.
_WORST = float(np.finfo(np.float32).max)
_CHOICES = ("file", "teaching")


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


def choose_engine(engine: str | None, candidates: int, epochs: int, trials: int | None) -> str:
    """Return the engine: the one asked for, or the one that trains some candidates to the end.

    Raises:
        ValueError: If there is no such engine.
    """
    if engine is not None:
        one_of("engine", engine, ENGINES)
        return engine
    brackets = halving(epochs)
    enough = trials is None or trials >= brackets[0][1]
    if epochs >= FACTOR and enough and candidates >= sum(new for new, _ in brackets):
        return "hyperband"
    return "grid" if trials is None or trials >= candidates else "random"


def ranked(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points (cost, score), the most promising first.

    The points of the Pareto front come first, then those of the front of the others, and so on. On
    a front the best score comes first, then whatever lies farthest from all that came before, so
    that the first few cover the whole of it.

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
        chosen = [layer.pop(0)]
        while layer:
            gaps = [min(np.abs(places[i] - places[j]).sum() for j in chosen) for i in layer]
            chosen.append(layer.pop(int(np.argmax(gaps))))
        order += chosen
    return order


def _oracle(
    engine: str,
    known: Collection[tuple[str, str]],
    epochs: int,
    budget: float | None,
    **arguments: Any,
) -> Any:
    """Return an oracle of KerasTuner that ranks trials by cost and score."""
    import keras_tuner
    from keras_tuner import oracles

    kinds = {
        "hyperband": oracles.HyperbandOracle,
        "random": oracles.RandomSearchOracle,
        "bayesian": oracles.BayesianOptimizationOracle,
        "grid": oracles.GridSearchOracle,
    }

    class Oracle(kinds[engine]):  # type: ignore[misc, valid-type]
        """The oracle; a trial's score is its rank among those that it is compared with."""

        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            # Iteration, bracket and round of each trial: those of one round are compared.
            self._rounds: dict[str, tuple[Any, ...]] = {}

        def _untried(self) -> list[dict[str, str]]:
            every = (dict(zip(_CHOICES, choices, strict=True)) for choices in known)
            return [values for values in every if not self._duplicate(values)]

        def _random_values(self) -> dict[str, Any] | None:
            """Return a candidate that was not tried yet, or `None` if there is none.

            KerasTuner gives up after 20 draws of what was tried, wherever most of it was.
            """
            values: dict[str, Any] | None = super()._random_values()
            if values is None and (left := self._untried()):
                values = random.Random(f"{self.seed} {len(self.trials)}").choice(left)
            return values

        def _get_size(self, bracket_num: int, round_num: int) -> int:
            """Return the trials of a round of Hyperband, fewer once no candidate is left."""
            if not self._untried():
                for bracket in self._brackets:
                    if bracket["bracket_num"] == bracket_num:
                        return math.ceil(len(bracket["rounds"][0]) / FACTOR**round_num)
            return int(super()._get_size(bracket_num, round_num))

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            """Return the next trial, or that there is none (yet)."""
            done = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
            spent = sum(trial.metrics.get_best_value("seconds") for trial in done)
            if budget is not None and spent >= budget:
                return {"status": "STOPPED"}
            groups: dict[tuple[Any, ...], list[Any]] = {}
            for trial in done:
                groups.setdefault(self._rounds[trial.trial_id], []).append(trial)
            for group in groups.values():
                figures = [
                    tuple(t.metrics.get_best_value(name) for name in ("cost", "score"))
                    for t in group
                ]
                whole = [i for i, (cost, _) in enumerate(figures) if cost < _WORST]
                order = [whole[i] for i in ranked([figures[i] for i in whole])]
                for i, trial in enumerate(group):
                    trial.score = -float(order.index(i) if i in order else len(group))
            before = copy.deepcopy(self.get_state())
            found: dict[str, Any] = super().populate_space(trial_id)
            values = found.get("values")
            if engine == "bayesian" and values and self._duplicate(values):
                values = self._random_values()
            names = ("tuner/bracket", "tuner/round")
            iteration = self._current_iteration if engine == "hyperband" else 0
            begun = (iteration, *map(values.get, names)) if values else None
            # What is promoted, and when a bracket begins, does not depend on which of several
            # workers is the faster: a round begins once the one before is complete.
            running = [self._rounds[trial.trial_id] for trial in self.ongoing_trials.values()]
            if engine == "hyperband" and running and begun != running[0]:
                self.set_state(before)
                return {"status": "IDLE"}
            if begun is None:
                return {"status": "STOPPED" if found["status"] == "RUNNING" else found["status"]}
            self._rounds[trial_id] = begun
            return {"status": "RUNNING", "values": values}

    own: dict[str, Any] = {"max_trials": arguments.pop("trials")}
    if engine == "hyperband":
        most, own = own["max_trials"], {}
        own |= {"max_epochs": epochs, "factor": FACTOR, "hyperband_iterations": 1_000_000}
    elif own["max_trials"] is None:
        own["max_trials"] = 1_000_000
    objective = keras_tuner.Objective("score", "max")
    oracle = Oracle(objective, **own, **arguments)
    if engine == "hyperband":
        oracle.max_trials = most
    return oracle


def run_engine(
    engine: str,
    candidates: Sequence[Candidate],
    run: Callable[[Candidate, int, int], Mapping[str, Any]],
    folder: pathlib.Path,
    *,
    epochs: int,
    trials: int | None,
    budget: float | None,
    cost: str,
    seed: int,
) -> None:
    """Run trials until they are enough: all of them, or as a worker those that the chief gives.

    The oracle starts again in every process; a trial whose record is there costs nothing. So a
    search that was killed makes the choices that it made before, whatever was written last.

    Args:
        engine: One of `ENGINES`.
        candidates: What may be tried.
        run: A function `(candidate, epochs, number) -> record`.
        folder: The folder of the search.
        epochs: Epochs of a whole training.
        trials: Number of trials, or `None`.
        budget: Seconds after which no trial begins, or `None`.
        cost: `"bytes"` or `"zipped_bytes"`.
        seed: Fixes what the oracle draws.
    """
    import keras_tuner
    from keras_tuner import errors
    from keras_tuner.engine import base_tuner

    space = keras_tuner.HyperParameters()
    known = {(candidate.file, candidate.teaching): candidate for candidate in candidates}
    for name, values in zip(_CHOICES, zip(*known, strict=True), strict=True):
        space.Choice(name, list(dict.fromkeys(values)))
    distributed = role() == "worker"

    class Tuner(base_tuner.BaseTuner):  # type: ignore[misc]
        """Runs what the oracle asks for."""

        def pre_create_trial(self) -> None:
            """Wait a little, where the oracle may have nothing to do yet."""
            if distributed:
                time.sleep(0.1)

        def run_trial(self, trial: Any, **unused: Any) -> dict[str, float]:
            """Return the figures of a trial."""
            values = trial.hyperparameters.values
            choices = tuple(values[name] for name in _CHOICES)
            try:
                if choices not in known:
                    raise ValueError(
                        f"The chief asks for the candidate {', '.join(choices)}, which is none of "
                        "this process. Every process of a search must make the same call."
                    )
                candidate = known[choices]
                record = run(candidate, values.get("tuner/epochs", epochs), int(trial.trial_id) + 1)
            except Exception as error:  # which KerasTuner would take for a poor candidate
                raise errors.FatalError(str(error)) from error
            failed = record["error"] is not None
            figures = {
                "score": -_WORST if failed else record["score"],
                "cost": _WORST if failed else record[cost],
                "seconds": record["seconds"],
            }
            return {name: float(np.float32(value)) for name, value in figures.items()}

    of_tuner = {"trials": trials, "hyperparameters": space, "seed": seed + 1}
    oracle = _oracle(engine, known, epochs, budget, **of_tuner)
    name = os.environ.get("KERASTUNER_TUNER_ID", "alone")
    tuner = Tuner(oracle, directory=folder / "engine", project_name=name, overwrite=True)
    try:
        tuner.search(verbose=0)
    except errors.FatalError as error:
        raise (error.__cause__ or error) from None
