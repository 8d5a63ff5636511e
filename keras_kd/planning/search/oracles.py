"""What decides on the next trial: the oracles of KerasTuner, ranking by two objectives."""

from __future__ import annotations

import math
import os
import pathlib
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras_tuner
import numpy as np
from keras_tuner import errors, oracles
from keras_tuner.engine import base_tuner

from keras_kd.planning.search.candidates import Candidate
from keras_kd.planning.search.engine import ranked, role
from keras_kd.planning.search.trials import FACTOR
from keras_kd.report.pareto import hypervolume
from keras_kd.system.arguments import exceeds

# What a failed trial reports; the largest of float32, in which KerasTuner's workers report.
_WORST = float(np.finfo(np.float32).max)
# Of costs and scores of which those seen lie in 0..1: files that are smaller, and as much worse
# than the worst as that is worse than the best, count too.
_CORNER = (1.1, -1.0)


def _figures(trial: Any) -> tuple[float, float]:
    """Return the cost and the score of a trial."""
    cost, score = (trial.metrics.get_best_value(name) for name in ("cost", "score"))
    return cost, score


class _Ranking(keras_tuner.Oracle):  # type: ignore[misc]
    """Mixed into an oracle: a trial's score is its rank among those that it is compared with.

    Args:
        candidates: What may be tried.
        budget: Seconds of trials after which none begins, or `None`.
        seed: Fixes what the oracle draws.
        **options: Arguments of KerasTuner's oracle.
    """

    # Hyperparameters: a name and what of a candidate it chooses.
    choices: ClassVar[dict[str, Any]] = {
        "file": lambda candidate: candidate.file,
        "teaching": lambda candidate: candidate.teaching,
    }

    def __init__(
        self, candidates: Sequence[Candidate], budget: float | None, seed: int, **options: Any
    ) -> None:
        self.known = {
            tuple(choose(candidate) for choose in self.choices.values()): candidate
            for candidate in candidates
        }
        self._budget = budget
        self._tried: set[tuple[str, ...]] = set()
        space = keras_tuner.HyperParameters()
        for name, values in zip(self.choices, zip(*self.known, strict=True), strict=True):
            space.Choice(name, list(dict.fromkeys(values)))
        objective = keras_tuner.Objective("score", "max")
        super().__init__(objective, hyperparameters=space, seed=seed + 1, **options)

    def chosen(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the choices of a trial."""
        return tuple(values[name] for name in self.choices)

    def _untried(self) -> list[tuple[str, ...]]:
        return [choices for choices in self.known if choices not in self._tried]

    def _duplicate(self, values: Mapping[str, Any]) -> bool:
        """Whether no trial may have these values: they are taken, or of no candidate."""
        return self.chosen(values) not in self.known or super()._duplicate(values)

    def _random_values(self) -> dict[str, Any] | None:
        """Return a candidate that was not tried yet, or `None` if there is none.

        KerasTuner gives up after 20 draws of what was tried, wherever most of it was.
        """
        values: dict[str, Any] | None = super()._random_values()
        if values is None and (left := self._untried()):
            chosen = random.Random(f"{self.seed} {len(left)}").choice(left)
            values = dict(zip(self.choices, chosen, strict=True))
        return values

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial, or that there is none (yet)."""
        done = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
        spent = sum(trial.metrics.get_best_value("seconds") for trial in done)
        if self._budget is not None and spent >= self._budget:
            return {"status": "STOPPED"}
        groups: dict[Any, list[Any]] = {}
        for trial in done:
            groups.setdefault(self._round(trial.trial_id), []).append(trial)
        for group in groups.values():
            figures = [_figures(trial) for trial in group]
            whole = [i for i, (cost, _) in enumerate(figures) if cost < _WORST]
            order = [whole[i] for i in ranked([figures[i] for i in whole])]
            for i, trial in enumerate(group):
                trial.score = -float(order.index(i) if i in order else len(group))
        found = self._next(trial_id)
        if found.get("values"):
            self._tried.add(self.chosen(found["values"]))
        elif found["status"] == "RUNNING":
            found["status"] = "STOPPED"
        return found

    def _round(self, trial_id: str) -> Any:
        """Return which trials a trial is compared with: those of which this is the same."""
        return None

    def _next(self, trial_id: str) -> dict[str, Any]:
        """Return what KerasTuner asks for next."""
        found: dict[str, Any] = super().populate_space(trial_id)
        return found


class Random(_Ranking, oracles.RandomSearchOracle):
    """Candidates at random."""


class Grid(_Ranking, oracles.GridSearchOracle):
    """All candidates in their order."""


class Bayesian(_Ranking, oracles.BayesianOptimizationOracle):
    """The candidate of which KerasTuner's Gaussian process expects the largest gain of the front.

    One process learns the scores, another the costs, which are nearly the product of what a student
    and a format cost.
    """

    choices: ClassVar[dict[str, Any]] = {
        "student": lambda candidate: candidate.student,
        "stages": lambda candidate: f"{candidate.stages} | {candidate.quantization}",
        "teaching": lambda candidate: candidate.teaching,
    }

    def _next(self, trial_id: str) -> dict[str, Any]:
        """Return the untried candidate with the largest gain, if it is as good as it may be."""
        done = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
        figures = np.array([_figures(trial) for trial in done])
        whole = figures[:, 0] < _WORST if done else np.array([], bool)
        left = self._untried()
        if not left or whole.sum() < 3 * len(self.choices):
            return self._random_populate_space()
        tried = self._places([self.chosen(trial.hyperparameters.values) for trial in done])[whole]
        points = figures[whole]
        points[:, 0] = np.log(points[:, 0])
        lowest, spread = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
        points = (points - lowest) / spread
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of length scales at their bounds
            costs = self._make_gpr().fit(tried, points[:, 0]).predict(self._places(left))
            scores = self.gpr.fit(tried, points[:, 1])
            mean, deviation = scores.predict(self._places(left), return_std=True)
        front = points.tolist()
        gains = [
            hypervolume([*front, (cost, score)], _CORNER)
            for cost, score in zip(costs, mean + deviation, strict=True)
        ]
        best = left[int(np.argmax(gains))]
        return {"status": "RUNNING", "values": dict(zip(self.choices, best, strict=True))}

    def _places(self, choices: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Return where choices are in the space of the processes."""
        space = self.hyperparameters.space
        return np.array(
            [[hp.value_to_prob(v) for hp, v in zip(space, row, strict=True)] for row in choices]
        )


class Hyperband(_Ranking, oracles.HyperbandOracle):
    """Many candidates for a few epochs, the most promising for more."""

    _brackets: list[dict[str, Any]]

    def __init__(
        self, candidates: Sequence[Candidate], budget: float | None, seed: int, **options: Any
    ) -> None:
        trials = options.pop("max_trials")
        self._rounds: dict[str, tuple[int, int]] = {}  # bracket and round of each trial
        self._begun = -1  # the last bracket
        # Iterations end with the candidates.
        options |= {"factor": FACTOR, "hyperband_iterations": 1_000_000}
        super().__init__(candidates, budget, seed, **options)
        self.max_trials = trials

    def _round(self, trial_id: str) -> tuple[int, int]:
        return self._rounds[trial_id]

    def _start_new_bracket(self) -> None:
        super()._start_new_bracket()
        self._begun += 1
        self._brackets[-1]["number"] = self._begun

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        """Return the trials of a round, fewer once no candidate is left."""
        whole = super()._get_size
        if not self._untried():
            for bracket in self._brackets:
                begun = len(bracket["rounds"][0])
                if bracket["bracket_num"] == bracket_num and begun < whole(bracket_num, 0):
                    return math.ceil(begun / FACTOR**round_num)
        return int(whole(bracket_num, round_num))

    def _next(self, trial_id: str) -> dict[str, Any]:
        """Return what KerasTuner asks for next.

        A round is promoted once it is complete, so that it does not matter which of several workers
        is the faster. Those who would wait for it begin the next bracket, if what the brackets
        before it still need leaves trials for it.
        """
        self._remove_completed_brackets()
        waiting = [bracket for bracket in self._brackets if self._waits(bracket)]
        self._brackets = [bracket for bracket in self._brackets if bracket not in waiting]
        first = self._brackets[0]["number"] if self._brackets else self._begun + 1
        before = sum(self._missing(bracket) for bracket in waiting if bracket["number"] < first)
        found: dict[str, Any] = {"status": "IDLE"}
        if not before or not self.max_trials or len(self.trials) + before < self.max_trials:
            found = super()._next(trial_id)
        self._brackets = sorted([*waiting, *self._brackets], key=lambda b: b["number"])
        for bracket in self._brackets:
            for i, row in enumerate(bracket["rounds"]):
                if any(entry["id"] == trial_id for entry in row):
                    self._rounds[trial_id] = (bracket["number"], i)
        return found

    def _sizes(self, bracket: Mapping[str, Any]) -> list[int]:
        rounds = range(len(bracket["rounds"]))
        return [self._get_size(bracket["bracket_num"], i) for i in rounds]

    def _waits(self, bracket: Mapping[str, Any]) -> bool:
        """Whether a bracket can do nothing before a trial ends."""
        begun = list(map(len, bracket["rounds"]))
        filling = next(i for i, size in enumerate(self._sizes(bracket)) if begun[i] < size)
        running = {trial.trial_id for trial in self.ongoing_trials.values()}
        return filling > 0 and any(row["id"] in running for row in bracket["rounds"][filling - 1])

    def _missing(self, bracket: Mapping[str, Any]) -> int:
        """Return how many trials a bracket has not begun."""
        return sum(self._sizes(bracket)) - sum(map(len, bracket["rounds"]))


def make_oracle(
    engine: str,
    candidates: Sequence[Candidate],
    *,
    epochs: int,
    trials: int | None,
    budget: float | None,
    seed: int,
) -> Any:
    """Return an oracle. The arguments are those of `run_engine`."""
    if engine == "hyperband":
        return Hyperband(candidates, budget, seed, max_epochs=epochs, max_trials=trials)
    kinds: dict[str, Any] = {"random": Random, "bayesian": Bayesian, "grid": Grid}
    return kinds[engine](candidates, budget, seed, max_trials=trials or 1_000_000)


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
    most: float | None,
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
        most: The limit on it, or `None`. What is larger is not promoted.
        seed: Fixes what the oracle draws.
    """
    oracle = make_oracle(engine, candidates, epochs=epochs, trials=trials, budget=budget, seed=seed)
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
            choices = oracle.chosen(values)
            try:
                if choices not in oracle.known:
                    raise ValueError(
                        f"The chief asks for the candidate {', '.join(choices)}, which is none of "
                        "this process. Every process of a search must make the same call."
                    )
                candidate = oracle.known[choices]
                record = run(candidate, values.get("tuner/epochs", epochs), int(trial.trial_id) + 1)
            except Exception as error:  # which KerasTuner would take for a poor candidate
                raise errors.FatalError(str(error)) from error
            failed = record["error"] is not None
            if not failed and most is not None:
                failed = exceeds(record[cost], most)
            figures = {
                "score": -_WORST if failed else record["score"],
                "cost": _WORST if failed else record[cost],
                "seconds": record["seconds"],
            }
            return {name: float(np.float32(value)) for name, value in figures.items()}

    name = os.environ.get("KERASTUNER_TUNER_ID", "alone")
    tuner = Tuner(oracle, directory=folder / "engine", project_name=name, overwrite=True)
    try:
        tuner.search(verbose=0)
    except errors.FatalError as error:
        raise (error.__cause__ or error) from None
