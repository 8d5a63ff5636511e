import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_kd.planning.search.candidates import Candidate, seed_of
from keras_kd.planning.search.engine import choose_engine, halving, ranked, role
from keras_kd.planning.search.oracles import make_oracle, run_engine
from keras_kd.planning.search.trials import rungs
from keras_kd.report.pareto import hypervolume

CANDIDATES = [
    Candidate(f"student {i}", way, "none", "int8") for way in ("a", "b") for i in range(12)
]


def figures(candidate, epochs):
    """A larger student is better, more so after more epochs; way b is better than a."""
    size = int(candidate.student.split()[1]) + 1
    score = 1 - 1 / (1 + size) - 0.3 / (1 + epochs) + 0.01 * (candidate.teaching == "b")
    return {"error": None, "score": score, "bytes": 1000 * size, "seconds": 10.0}


def search(folder, engine, run=figures, **changed):
    asked = []

    def noted(candidate, epochs, number):
        asked.append((candidate, epochs, number))
        return run(candidate, epochs)

    given = {"epochs": 9, "trials": None, "budget": None, "cost": "bytes", "most": None, "seed": 0}
    given |= changed
    run_engine(engine, CANDIDATES, noted, folder, **given)
    return asked


def test_ranks_follow_the_fronts():
    points = [(10, 0.5), (20, 0.9), (15, 0.8), (30, 0.7), (11, 0.4), (10, 0.5)]
    order = ranked(points)
    assert sorted(order) == list(range(6))
    # The front: the best score first, then what adds the most area, then what is left.
    assert order[:3] == [1, 2, 0]
    # Of equal points the second is on the next front; 3 and 4 are superior to nothing.
    assert order[3:] == [3, 5, 4]
    assert ranked([]) == [] and ranked([(5, 0.1)]) == [0]


def test_ranks_are_by_turns_the_most_accurate_and_the_largest_gain():
    """Two files of nearly one size and accuracy: both come before the smallest."""
    points = [(10_000, 0.863), (18_000, 0.904), (50_000, 0.9064), (57_000, 0.9068)]
    assert ranked(points) == [3, 1, 2, 0]
    assert ranked([(10, 0.5), (10, 0.5)]) == [0, 1]


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 9, 10, 27, 100])
def test_rungs_are_those_of_hyperband(epochs):
    from keras_tuner import HyperParameters, oracles

    space = HyperParameters()
    space.Int("x", 0, 10**6)
    oracle = oracles.HyperbandOracle(
        "val_loss", epochs, hyperband_iterations=2, hyperparameters=space, seed=1
    )
    new, total = halving(epochs)[0]
    asked = []
    for _ in range(total):
        trial = oracle_trial(oracle)
        asked.append(trial)
    assert [t["tuner/round"] for t in asked].count(0) == new
    assert {t["tuner/epochs"] for t in asked} == set(rungs(epochs))
    assert oracle_trial(oracle)["tuner/round"] == 0 and len(asked) == total


def oracle_trial(oracle):
    response = oracle.populate_space(str(len(oracle.trials)))
    values = response["values"]
    trial = type("Trial", (), {})()
    trial.trial_id, trial.status, trial.score = str(len(oracle.trials)), "COMPLETED", values["x"]
    trial.hyperparameters = type("Values", (), {"values": values})()
    oracle.trials[trial.trial_id] = trial
    return values


def test_hyperband_trains_the_promising_longer(tmp_path):
    asked = search(tmp_path, "hyperband", trials=13)
    assert [epochs for _, epochs, _ in asked] == [1] * 9 + [3] * 3 + [9]
    assert [number for *_, number in asked] == list(range(1, 14))
    first = [candidate for candidate, epochs, _ in asked if epochs == 1]
    points = [(figures(c, 1)["bytes"], figures(c, 1)["score"]) for c in first]
    promoted = {candidate for candidate, epochs, _ in asked if epochs == 3}
    assert promoted == {first[i] for i in ranked(points)[:3]}
    assert search(tmp_path, "hyperband", trials=13) == asked


@pytest.mark.parametrize("engine", ["random", "bayesian", "grid"])
def test_others_train_to_the_end(tmp_path, engine):
    asked = search(tmp_path, engine, trials=7)
    assert [epochs for _, epochs, _ in asked] == [9] * 7
    assert len({candidate for candidate, *_ in asked}) == 7
    assert search(tmp_path, engine, trials=7) == asked
    if engine == "grid":
        assert {candidate for candidate, *_ in search(tmp_path, engine)} == set(CANDIDATES)


def test_the_bayesian_engine_finds_the_front_in_fewer_trials(tmp_path, monkeypatch):
    """Of 120 candidates 20 are tried; stages halve the file, and one way is better."""
    many = [
        Candidate(f"student {i}", way, stages, "int8")
        for i in range(10) for way in "abcd" for stages in ("none", "half", "twice")
    ]  # fmt: skip
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATES", many)

    def measured(candidate, epochs):
        found = figures(candidate, epochs)
        factor = {"none": 1.0, "half": 0.5, "twice": 2.0}[candidate.stages]
        return {**found, "bytes": factor * found["bytes"]}

    def area(candidates):
        found = [measured(candidate, 9) for candidate in candidates]
        points = [(math.log(each["bytes"]), each["score"]) for each in found]
        return hypervolume(points, (math.log(20_000), 0.0))

    areas = {"bayesian": [], "random": []}
    for engine, of_engine in areas.items():
        for seed in range(3):
            asked = [c for c, *_ in search(tmp_path, engine, measured, trials=20, seed=seed)]
            assert len(set(asked)) == 20
            of_engine.append(area(asked))
    assert np.mean(areas["bayesian"]) > np.mean(areas["random"])
    assert min(areas["bayesian"]) > 0.98 * area(many)


def test_every_candidate_is_tried_while_trials_are_left(tmp_path):
    for seed in range(3):
        asked = search(tmp_path, "random", trials=30, seed=seed)
        assert len(asked) == 24 and {candidate for candidate, *_ in asked} == set(CANDIDATES)


def test_the_last_bracket_promotes_though_candidates_run_out(tmp_path):
    asked = search(tmp_path, "hyperband")
    assert {candidate for candidate, *_ in asked} == set(CANDIDATES)
    brackets = [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] * 2 + [9] * 3
    # Seven candidates are left for the second iteration.
    assert [epochs for _, epochs, _ in asked] == brackets + [1] * 7 + [3] * 3 + [9]
    assert search(tmp_path, "hyperband", trials=30) == asked[:30]


def test_a_bracket_of_a_later_iteration_has_ranks_of_its_own(tmp_path, monkeypatch):
    many = [Candidate(f"student {i}", "a", "none", "int8") for i in range(60)]
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATES", many)

    def noisy(candidate, epochs):
        size, score = np.random.default_rng(int(candidate.student.split()[1])).uniform(0, 1, 2)
        return {"error": None, "score": score, "bytes": 1000 + 9000 * size, "seconds": 1.0}

    second = search(tmp_path, "hyperband", noisy, trials=35)[23:]
    assert [epochs for _, epochs, _ in second] == [1] * 9 + [3] * 3
    first = [candidate for candidate, *_ in second[:9]]
    points = [(noisy(c, 1)["bytes"], noisy(c, 1)["score"]) for c in first]
    assert {c for c, *_ in second[9:]} == {first[i] for i in ranked(points)[:3]}


def test_a_candidate_that_this_process_does_not_have_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CANDIDATES", CANDIDATES[:-1])
    with pytest.raises(
        ValueError, match=r"student 11 \| none \| int8, b, which is none of this process"
    ):
        search(tmp_path, "grid")


def test_a_budget_counts_the_seconds_of_trials(tmp_path):
    assert len(search(tmp_path, "random", budget=35.0)) == 4


def test_a_failed_trial_is_never_promoted(tmp_path):
    def fails(candidate, epochs):
        if candidate.teaching == "b":
            return {"error": "no", "score": None, "bytes": None, "seconds": 1.0}
        return figures(candidate, epochs)

    asked = search(tmp_path, "hyperband", fails, trials=13)
    assert {candidate.teaching for candidate, epochs, _ in asked if epochs == 1} == {"a", "b"}
    assert {candidate.teaching for candidate, epochs, _ in asked if epochs > 1} == {"a"}


def test_a_file_above_the_limit_is_never_promoted(tmp_path):
    """Candidates are taken by their untrained files, which may be somewhat smaller."""
    asked = search(tmp_path, "hyperband", trials=13, most=8000)
    sizes = {
        epochs: [figures(c, 1)["bytes"] for c, e, _ in asked if e == epochs] for epochs in (1, 3)
    }
    assert max(sizes[1]) > 8000 >= max(sizes[3])


def test_what_is_no_failure_of_a_candidate_ends_the_search(tmp_path):
    def full(candidate, epochs):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        search(tmp_path, "random", full, trials=3)


def test_the_engine_trains_some_candidates_to_the_end(monkeypatch):
    assert halving(9) == [(9, 13), (5, 7), (3, 3)]
    assert choose_engine(None, 17, 9, None, 1000) == "hyperband"
    assert choose_engine(None, 17, 9, None, 999) == "bayesian"
    assert choose_engine(None, 16, 9, None, 1000) == "bayesian"
    assert choose_engine(None, 17, 9, 12, 1000) == "bayesian"
    assert choose_engine(None, 100, 2, None, 1000) == "bayesian"
    assert choose_engine("bayesian", 1, 1, 1, 1) == "bayesian"
    with pytest.raises(ValueError, match="`engine` must be one of"):
        choose_engine("genetic", 1, 1, 1, 1)
    for name in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT"):
        monkeypatch.setenv(f"KERASTUNER_{name}", "1")
    assert choose_engine(None, 17, 9, None, 999) == "random"


def test_roles(monkeypatch):
    assert role() == "alone"
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_IP"):
        role()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    assert role() == "chief"
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
    assert role() == "worker"


def test_ranks_are_those_of_a_plain_sort():
    """Against a plain non-dominated sort."""
    generator = np.random.default_rng(0)
    points = [(float(c), float(s)) for c, s in generator.uniform(1, 100, (40, 2))]
    left, fronts = set(range(40)), []
    while left:
        front = {
            i for i in left
            if not any(points[j][0] <= points[i][0] and points[j][1] >= points[i][1] and j != i
                       for j in left)
        }  # fmt: skip
        fronts.append(front)
        left -= front
    order = ranked(points)
    for front in fronts:
        assert set(order[: len(front)]) == front
        order = order[len(front) :]


def by_workers(folder, count, seconds, trials):
    """Return what `count` workers are asked for, and how many seconds they take together."""
    given = {"epochs": 9, "trials": trials, "budget": None, "seed": 0}
    oracle = make_oracle("hyperband", CANDIDATES, **given)
    oracle._set_project_dir(str(folder), "workers")
    oracle.verbose = 0
    known = {(candidate.file, candidate.teaching): candidate for candidate in CANDIDATES}
    now, busy, asked, idle = 0.0, {}, [], set(range(count))
    while True:
        for worker in sorted(idle):
            trial = oracle.create_trial(str(worker))
            if trial.status == "RUNNING":
                values = trial.hyperparameters.values
                candidate = known[values["file"], values["teaching"]]
                asked.append((candidate, values["tuner/epochs"]))
                busy[worker] = now + seconds(candidate, values["tuner/epochs"]), trial, asked[-1]
                idle.remove(worker)
        if not busy:
            return asked, now
        worker = min(busy, key=lambda worker: (busy[worker][0], worker))
        now, trial, row = busy.pop(worker)
        found = figures(*row)
        figure = {"score": found["score"], "cost": found["bytes"], "seconds": 1.0}
        oracle.update_trial(trial.trial_id, figure)
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        idle.add(worker)


@pytest.mark.parametrize("trials", [12, 13, 14, 17, 21, 25, 60])
def test_many_workers_try_what_one_tries_and_do_not_wait_for_each_other(tmp_path, trials):
    def seconds(candidate, epochs):
        return epochs * (1 + seed_of(str(candidate)) % 7)

    alone = [row[:2] for row in search(tmp_path / "alone", "hyperband", trials=trials)]
    spent = sum(seconds(*row) for row in alone)
    for count in (1, 2, 3):
        asked, took = by_workers(tmp_path / str(count), count, seconds, trials)
        assert sorted(map(str, asked)) == sorted(map(str, alone))
        if trials == 25:
            # All but a part of the last bracket is shared evenly.
            assert took <= spent / count * 1.3


WORKER = """
import json, os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import test_engine
folder, name, dies = pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"
def run(candidate, epochs):
    time.sleep(0.3 if name == "worker1" else 0.05)
    rows = folder / f"{name}.jsonl"
    if dies and name == "worker1" and rows.exists() and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(9)
    with rows.open("a") as file:
        print(json.dumps([str(candidate), epochs]), file=file)
    return test_engine.figures(candidate, epochs)
test_engine.search(folder, "hyperband", run, trials=13)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
def test_a_chief_and_two_workers_try_what_one_process_tries(tmp_path, free_port, dies):
    """Also where a worker dies in a trial, and is started again by its name."""
    alone = [(str(c), epochs) for c, epochs, _ in search(tmp_path / "a", "hyperband", trials=13)]

    def start(name):
        environment = {
            **os.environ,
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(free_port),
        }
        words = [sys.executable, "-c", WORKER, str(pathlib.Path(__file__).parent), str(tmp_path)]
        return subprocess.Popen([*words, name, str(dies)], env=environment)

    chief, *workers = [start(name) for name in ("chief", "worker1", "worker2")]
    if dies:
        assert workers[0].wait(120) == 9
        workers[0] = start("worker1")
    assert [process.wait(120) for process in (chief, *workers)] == [0, 0, 0]
    lines = [(tmp_path / f"worker{i}.jsonl").read_text().splitlines() for i in (1, 2)]
    assert lines[0] and lines[1]  # both worked
    rows = [tuple(json.loads(line)) for line in lines[0] + lines[1]]
    assert sorted(rows) == sorted(alone)
