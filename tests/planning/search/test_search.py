import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest_of_search import images, network
from keras import layers

import keras_kd as kd
from keras_kd.compression.running.described import as_plan
from keras_kd.distilling.distiller import Distiller
from keras_kd.planning.search import results, trials
from keras_kd.planning.search.candidates import Candidate, Space, make_space
from keras_kd.planning.search.results import _report, finish, rounded_up
from keras_kd.planning.search.search import (
    _candidates,
    _engine,
    _refuse_others,
    budget_seconds,
)
from keras_kd.planning.search.trials import Trials
from keras_kd.report.pareto import pareto_front
from keras_kd.system.files import write_json

UNLABELED = tf.data.Dataset.from_tensor_slices(images(6, 3)[0]).batch(3)
OPTIONS = {
    "mode": "max", "zipped": False, "metric": "accuracy", "max_bytes": None, "max_drop": None,
    "max_latency_ms": None, "verbose": False,
}  # fmt: skip


def figures(result):
    """What must be the same, whenever and wherever it is searched."""
    return {
        found.folder.name: (found.metric, found.bytes, found.file.read_bytes())
        for found in result.front
    }


@pytest.fixture(scope="module")
def searched(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched") / "run"
    return kd.search(**given, max_drop=100.0, max_bytes=100_000, path=folder)


@pytest.mark.promise
def test_the_front_and_what_belongs_to_it(searched, given):
    records = [json.loads(f.read_text()) for f in searched.path.glob("trials/*/record.json")]
    assert len(records) == 6
    # Four at one epoch (three of the first bracket), of which the best went on.
    assert sorted(record["epochs"] for record in records) == [1, 1, 1, 3, 3, 3]
    points = [(record["bytes"], record["score"]) for record in records]
    expected = {(points[i]) for i in pareto_front(points)}
    assert {(found.bytes, found.metric) for found in searched.front} == expected
    for found in searched.front:
        assert found.file.stat().st_size == found.bytes
        measured = kd.evaluate_tflite(found.file, given["validation_data"], verbose=False)
        assert measured.accuracy == found.metric
        assert found.drop == pytest.approx(100 * (searched.reference - found.metric))
        tested = kd.evaluate_tflite(found.file, given["test_data"], verbose=False)
        assert found.test["accuracy"] == found.test["metric"] == tested.accuracy
        model = keras.models.load_model(found.model, compile=False)
        answers = model.predict(given["validation_data"][0], verbose=0).argmax(axis=1)
        assert np.mean(answers == given["validation_data"][1]) == pytest.approx(
            found.metric, abs=0.1
        )
        assert json.loads((found.folder / "student.tflite.json").read_text())["quantization"]
    off = [found for found in searched.tried if found not in searched.front]
    assert off and all(found.test is None for found in off)
    assert searched.best == searched.front[0]  # the smallest: every file is within max_drop
    assert searched.best.candidate.student in str(searched)


@pytest.mark.promise
def test_the_page_and_the_record(searched):
    page = searched.report.read_text()
    assert "What won and what lost" in page
    for found in searched.tried:
        assert f"trials/{found.folder.name}/recipe.json" in page
    content = json.loads((searched.path / "report.json").read_text())
    rows = {(row["ingredient"], row["choice"]): row for row in content["ingredients"]}
    assert sum(row["files"] for key, row in rows.items() if key[0] == "student") == 6
    assert content["shipped"] == searched.best.folder.name
    kept = json.loads((searched.path / "result.json").read_text())
    assert kept["best"]["bytes"] == searched.best.bytes and len(kept["tried"]) == 6


@pytest.mark.promise
def test_once_more_trains_nothing_and_elsewhere_gives_the_same_front(searched, given, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in searched.path.glob("trials/*/*")}
    again = kd.search(**given, path=searched.path)
    assert figures(again) == figures(searched)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    with pytest.raises(ValueError, match="other arguments: options"):
        kd.search(**{**given, "epochs": 4}, path=searched.path)
    x, y = given["validation_data"]
    with pytest.raises(ValueError, match="other arguments: validation_data"):
        kd.search(**{**given, "validation_data": (x, y[::-1])}, path=searched.path)
    # More trials go on with it.
    more = kd.search(**{**given, "trials": 7, "engine": "hyperband"}, path=searched.path)
    assert {f.folder for f in searched.tried} < {f.folder for f in more.tried}
    # The recipe of a file gives the file, in another folder.
    made = kd.search(**given, recipe=searched.best.recipe, path=tmp_path / "one")
    (only,) = made.tried
    assert only.file.read_bytes() == searched.best.file.read_bytes()


@pytest.mark.promise
def test_limits_that_cannot_be_kept_are_refused_before_training(given, tmp_path, monkeypatch):
    def fit(*arguments, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(kd.Distiller, "fit", fit)
    few = {**given, "formats": ("int8",), "widths": (0.25,), "path": tmp_path / "run"}
    with pytest.raises(ValueError, match=r"keep `max_bytes`.*width 0.25 \| none \| int8"):
        kd.search(**few, max_bytes=1000)
    with pytest.raises(ValueError, match="keep `max_latency_ms`"):
        kd.search(**few, max_latency_ms=1e-9)
    assert not (tmp_path / "run" / "trials").exists()


@pytest.mark.promise
def test_what_is_too_large_is_never_trained(searched, given, tmp_path):
    sizes = {
        width: [f.bytes for f in searched.tried if f.candidate.student == f"width {width}"]
        for width in (0.5, 0.25)
    }
    assert max(sizes[0.25]) < min(sizes[0.5])
    limit = (max(sizes[0.25]) + min(sizes[0.5])) // 2
    few = {**given, "trials": 2, "epochs": 1, "formats": ("float16",), "path": tmp_path}
    found = kd.search(**few, max_bytes=limit)
    assert {f.candidate.student for f in found.tried} == {"width 0.25"}
    assert found.best.metric == max(f.metric for f in found.tried)
    # A limit that was not kept, and the value at which it would have been.
    strict = kd.search(**few, max_bytes=limit, max_drop=0.0, reference=2.0)
    assert strict.best is None
    nearest = min(f.drop for f in strict.tried)
    assert f"max_drop=0.0 would have to be {rounded_up(nearest)}" in strict.verdict


@pytest.mark.promise
def test_dropout_depends_on_the_seed_alone(given, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = layers.Dropout(0.5)(layers.Flatten()(inputs))
    student = keras.Model(inputs, layers.Dense(3)(x), name="student")
    once = {**given, "students": [student], "formats": ("float16",), "trials": 1, "epochs": 1}
    files = []
    for i in range(2):
        keras.utils.set_random_seed(i)
        found = kd.search(**once, path=tmp_path / str(i))
        files.append(found.front[0].file.read_bytes())
    assert files[0] == files[1]


@pytest.mark.promise
def test_models_stages_and_another_metric(given, tmp_path):
    """Given students, a stage, and a metric of which less is better."""
    found = kd.search(
        **{
            **given,
            "students": [network(4, "four"), network(2, "two")],
            "teachings": {"alone": {"student_loss_weight": 1.0}},
            "stages": {"8 bits": [kd.QuantizeAware(1)]},
            "epochs": 2,
            "trials": 2,
            "test_data": None,
        },
        metric="sparse_categorical_crossentropy",
        mode="min",
        measuring={
            "metrics": [
                keras.metrics.SparseCategoricalCrossentropy(
                    name="sparse_categorical_crossentropy", from_logits=True
                )
            ]
        },
        cache_teacher=False,
        path=tmp_path,
    )
    assert {f.candidate.student for f in found.tried} == {"four", "two"}
    assert {f.candidate.quantization for f in found.tried} == {"int8"}
    best = min(found.tried, key=lambda f: f.metric)
    assert found.best == best and found.reference > 0 and best.metric > 0
    loaded = kd.load_compressed(found.best.model)
    assert loaded.quantization_aware
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["chosen_by"] == {"metric": "sparse_categorical_crossentropy", "mode": "min"}
    front = [f.folder.name for f in found.front]
    assert [key for key in content["pareto_fronts"]["bytes"] if key != "teacher"] == front
    assert f"sparse_categorical_crossentropy {best.metric:.4g}, " in found.report.read_text()


@pytest.mark.parametrize(
    ("changed", "error", "token"),
    [
        ({"budget": "2 weeks"}, ValueError, "`budget` must be"),
        ({"max_bytes": 0}, ValueError, "`max_bytes` must be"),
        ({"max_drop": -1}, ValueError, "`max_drop` must be"),
        ({"mode": "best"}, ValueError, "`mode` must be"),
        ({"engine": "luck"}, ValueError, "`engine` must be"),
        ({"validation_data": None}, ValueError, "`validation_data`"),
        ({"views": 0}, ValueError, "`views` must be"),
        ({"views": 2}, TypeError, r"`views` .*Received: views=2, train of the type tuple"),
        ({"views": 2, "cache_teacher": False}, ValueError, "`views` .*cache_teacher=False"),
        ({"metric": "mae", "teacher": network(2), "widths": (0.5,)}, ValueError, "no `mae`"),
        ({"test_data": iter([])}, TypeError, "`test_data`"),
        ({"test_data": UNLABELED}, ValueError, "The test data gives no `accuracy`"),
        (
            {
                "teachings": {"turned": {"teacher_outputs": lambda y: y[:, ::-1]}},
                "max_drop": 1.0,
                "students": [network(2, "two")],
            },
            ValueError,
            r"`teacher_outputs` .* Pass `reference=`",
        ),
        (
            {
                "teachings": {"plain": {}, "turned": {"teacher_outputs": lambda y: y[:, ::-1]}},
                "students": [network(2, "two")],
            },
            ValueError,
            r"`teachings` differ in `teacher_outputs`.*cache_teacher=False",
        ),
    ],
)
def test_errors(given, tmp_path, changed, error, token):
    with pytest.raises(error, match=token):
        kd.search(**{**given, **changed}, path=tmp_path / "run")


def test_a_metric_must_be_finite():
    def score(metric, **measured):
        options = {**OPTIONS, "metric": metric}
        return Trials.score(SimpleNamespace(options=options), {"metrics": {}, **measured})

    assert score("accuracy", accuracy=0.5, metrics={"accuracy": 0.4}) == 0.5
    assert score("accuracy", accuracy=None, metrics={"accuracy": 0.4}) == 0.4
    for value in (math.nan, math.inf, None):  # as it is measured, and as JSON gives it back
        with pytest.raises(ValueError, match=r"`r2_score` .* is not a finite number"):
            score("r2_score", accuracy=None, metrics={"r2_score": value})


def test_untrained_files_are_timed_as_trained_ones(monkeypatch):
    given = {}
    measured = SimpleNamespace(latency_ms=1.0)
    monkeypatch.setattr(trials, "benchmark_tflite", lambda _, **how: given.update(how) or measured)
    options = {"max_latency_ms": 2.0, "device": None, "measuring": {"threads": 2, "task": None}}
    assert Trials._latency(SimpleNamespace(options=options), pathlib.Path("a.tflite")) == 1.0
    assert given == {"threads": 2}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_bytes": 50}, r"`max_bytes`: the smallest file.*\(small \|.*has 1,234,561 bytes"),
        ({"max_latency_ms": 0.5}, r"`max_latency_ms`: the fastest file.*\(large \|.*has 1 ms"),
        (
            {"max_latency_ms": 2.0, "max_bytes": 1_300_000},
            r"`max_latency_ms` together with `max_bytes`: the fastest file.*\(small \|.*has 9 ms",
        ),
    ],
)
def test_the_file_that_comes_nearest_to_a_limit_is_called_what_it_is(limits, said):
    files = {"small": (1_234_561, 9.0), "large": (2_000_000, 1.0)}
    made = [Candidate(name, "way", "none", "int8") for name in files]
    figures = {name: {"bytes": b, "latency_ms": t} for name, (b, t) in files.items()}
    run = SimpleNamespace(
        options={**OPTIONS, "device": None, "formats": ["int8"], **limits},
        space=SimpleNamespace(teachings={"way": {}}, candidates=lambda way: made),
        untrained=lambda candidate: figures[candidate.student],
    )
    with pytest.raises(ValueError, match=said):
        _candidates(run)


def test_the_best_file_is_tested_beside_the_front_too(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_report", lambda *_: None)
    monkeypatch.setattr(results, "write_report", lambda *_: None)
    for name, score, size, latency in (("fast", 0.8, 200, 1.0), ("slow", 0.9, 100, 9.0)):
        candidate = dict.fromkeys(("student", "teaching", "stages", "quantization"), name)
        figures = {"bytes": size, "zipped_bytes": size, "latency_ms": latency, "seconds": 1.0}
        record = {"candidate": candidate, "epochs": 1, "error": None, "score": score, **figures}
        folder = tmp_path / "trials" / name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({**record, "measured": {}}))
    run = SimpleNamespace(
        folder=tmp_path,
        options={**OPTIONS, "max_latency_ms": 2.0},
        not_exported={},
        measure=lambda file, data: SimpleNamespace(to_dict=lambda: {"file": file.parent.name}),
        score=lambda measured, data: 0.7,
    )
    found = finish(run, None, (np.zeros((4, 1)), np.zeros(4)), writes=True)
    assert [file.test["file"] for file in found.front] == ["slow"]
    assert found.best.test == {"file": "fast", "metric": 0.7}
    assert {file.folder.name: file.test["file"] for file in found.tried} == {
        "slow": "slow", "fast": "fast",
    }  # fmt: skip


def test_errors_are_not_kept(tmp_path):
    file = tmp_path / "kept.json"
    assert Trials.kept(file, lambda: {"error": "no package"}) == {"error": "no package"}
    for _ in range(2):
        assert Trials.kept(file, lambda: {"bytes": 8}) == {"bytes": 8}
    assert Trials.kept(file, lambda: 1 / 0) == {"bytes": 8}


@pytest.mark.parametrize(
    ("limits", "minutes"),
    [
        ({"budget": 600.0}, 8), ({"trials": 4}, 2), ({"budget": 600.0, "trials": 9}, 7),
        ({"budget": 600.0, "trials": 30}, 8), ({"budget": 60.0}, 0),
    ],
)  # fmt: skip
def test_a_line_says_when_the_search_ends(given, tmp_path, monkeypatch, limits, minutes):
    options = {**OPTIONS, "optimizer": "adam", "budget": None, "trials": None, **limits}
    run = Trials(tmp_path, given["teacher"], Space({}, {}, {}, [], []), given["train"],
                 given["validation_data"], options)  # fmt: skip
    for name in "ab":
        write_json(tmp_path / "trials" / name / "record.json", {"seconds": 60.0})
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "localtime", time.gmtime)
    record = {"error": None, "score": 0.5, "bytes": 9, "latency_ms": 1.0, "seconds": 1.0}
    line = run._line(Candidate("a", "b", "c", "int8"), 2, {**record, "epochs": 1})
    assert line.endswith(f"ends about 00:{minutes:02d}")
    for worker in ("worker1", "worker2"):  # two share what is left
        (tmp_path / "workers" / worker).mkdir(parents=True)
    line = run._line(Candidate("a", "b", "c", "int8"), 2, {**record, "epochs": 1})
    assert line.endswith(f"ends about 00:{minutes // 2:02d}")


def test_an_end_on_another_day_has_its_date(tmp_path, monkeypatch):
    run = SimpleNamespace(folder=tmp_path, options={**OPTIONS, "budget": 172_800.0, "trials": None})
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "localtime", time.gmtime)
    record = {"error": None, "score": 0.5, "bytes": 9, "latency_ms": 1.0, "seconds": 1.0}
    line = Trials._line(run, Candidate("a", "b", "c", "int8"), 1, {**record, "epochs": 1})
    assert line.endswith("ends about 1970-01-03 00:00")


def found_file(candidate="small", **figures):
    made = Candidate(candidate, "way", "none", "int8")
    given = {"metric": 0.9, "drop": 0.5, "bytes": 1_234_561, "zipped_bytes": 1, "latency_ms": 0.7}
    folder = pathlib.Path("x") / candidate
    return results.FoundFile(made, 1, seconds=10.0, folder=folder, **{**given, **figures})


@pytest.mark.parametrize(
    ("number", "said"),
    [(1_234_561, "1,234,561"), (0.1, "0.1"), (1.23456001, "1.23457"), (2.0, "2"), (1e-7 / 3, None)],
)
def test_limits_that_are_told_are_large_enough(number, said):
    text = rounded_up(number)
    assert number <= float(text.replace(",", "")) <= number * 1.00001
    assert said is None or text == said
    limits = {"max_bytes": 1_000_000, "max_drop": 0.1, "max_latency_ms": None}
    tried = [found_file(bytes=1_234_561, drop=0.01)]
    _, verdict = results._judge(tried, {**limits, "metric": "accuracy"}, "bytes", 1)
    assert "max_bytes=1,000,000 would have to be 1,234,561 (small" in verdict


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (66.666, "accuracy 0.9000, 66.67 points worse than the teacher: "),
        (-2.5, "accuracy 0.9000, 2.50 points better than the teacher: "),
        (1e-9, "accuracy 0.9000, equal to the teacher: "),
        (None, "accuracy 0.9000: "),
    ],
)
@pytest.mark.parametrize("limit", ["max_bytes", "max_drop", None])
def test_the_verdict_compares_the_best_file_with_the_teacher(drop, said, limit):
    limits = {"max_bytes": None, "max_drop": None, "max_latency_ms": None, "metric": "accuracy"}
    if limit is not None:
        limits[limit] = 2_000_000
    best, verdict = results._judge([found_file(drop=drop)], limits, "bytes", 1)
    if limit == "max_drop" and drop is None:
        assert best is None
    else:
        assert said in verdict


def test_the_page_shows_the_latency_that_the_search_used(tmp_path):
    found = found_file()
    measured = {
        "bytes": 10, "zipped_bytes": 9, "latency_ms": 5.0, "latency_p90_ms": 6.0, "latency_runs": 3,
        "agreement": 1.0, "accuracy": 0.9, "path": "student.tflite", "operators": {},
    }  # fmt: skip
    run = SimpleNamespace(
        reference={"measured": measured},
        options={
            **OPTIONS,
            "plan": {"teachings": {}, "stages": {}, "options": {}},
            "device": "u55",
        },
    )
    found = results.SearchResult(
        tmp_path, (found,), (found,), (("bad", "error"),), found, "Good.", 0.9, tmp_path / "a.html"
    )
    page = _report(run, found, {"small": measured}, 110.0)
    files = [row["file"] for row in page["models"]]
    assert [file["latency_ms"] for file in files] == [None, 0.7]
    assert all(file["latency_p90_ms"] is None for file in files)
    assert "estimates for u55" in page["notes"][-1]
    assert page["seconds"] == {"all trials": 110.0}  # those that failed as well
    run.options["device"] = None
    file = _report(run, found, {"small": measured}, 110.0)["models"][1]["file"]
    assert (file["latency_ms"], file["latency_p90_ms"], file["latency_runs"]) == (5.0, 6.0, 3)
    page["notes"].pop()
    results.write_report(page, tmp_path)


def test_more_trials_keep_the_engine(tmp_path):
    (tmp_path / "search.json").write_text('{"format": "f", "plan": {}}')
    assert _engine(tmp_path, None, 24, 9, 12, 1000) == "bayesian"
    assert _engine(tmp_path, None, 24, 9, 24, 1000) == "bayesian"
    assert _engine(tmp_path, "bayesian", 24, 9, 24, 1000) == "bayesian"
    with pytest.raises(ValueError, match="other arguments: engine"):
        _engine(tmp_path, "hyperband", 24, 9, 24, 1000)
    assert json.loads((tmp_path / "search.json").read_text())["plan"] == {}


def constant(value):
    return lambda epoch: value


def test_functions_of_one_name_are_told_apart(tmp_path):
    def plan(*functions):
        return as_plan({"teachings": {"way": functions}})

    file = tmp_path / "search.json"
    pairs = [
        (lambda epoch: 0.1, lambda epoch: 0.9),
        (constant(0.1), constant(0.9)),
        (constant(tf.constant(0.1)), constant(tf.constant(0.9))),
        (lambda epoch, most=1: most, lambda epoch, most=2: most),
        (functools.partial(constant, 1), functools.partial(constant, 2)),
    ]
    for one, other in pairs:
        _refuse_others(file, plan(one), plan(one))
        with pytest.raises(ValueError, match="other arguments: teachings"):
            _refuse_others(file, plan(one), plan(other))
    same = [lambda epoch: {"a", "b"}, lambda epoch: {"a", "b"}]
    assert plan(same[0]) == plan(same[1])

    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert plan(factorial) == plan(factorial)
    # Earlier versions kept the names of functions alone: their searches are resumed.
    earlier = {"teachings": {"way": [pairs[0][0].__qualname__, "partial"]}}
    _refuse_others(file, earlier, plan(pairs[0][0], pairs[-1][0]))


def teaching_space(**way):
    stages = {"8 bits": [kd.QuantizeAware(1)]}
    ways = {"way": {"distillation_losses": kd.losses.KLDivergence(1.0), **way}}
    students = {"two": lambda: network(2, "two")}
    return Space(students, ways, stages, [("8 bits", "int8")], [])


def trials_of(folder, space, train, **options):
    given = {
        "optimizer": None, "epochs": 1, "seed": 0, "cache_teacher": False, "views": None,
        "exporting": {},
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "device": None,
    }  # fmt: skip
    run = Trials(
        folder, network(4, "teacher"), space, train, train, {**OPTIONS, **given, **options}
    )
    run.prepare()
    return run


@pytest.mark.promise
def test_stages_are_taught_by_the_trained_distiller(tmp_path, monkeypatch):
    def objective_of(distiller):
        objective = distiller.objective.without_missing_hints(distiller.student)
        projections = [x for layer in distiller.objective.layers for x in layer.get_weights()]
        return objective.distillation_loss_weights, objective.student_loss_weight, projections

    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    losses = [kd.losses.KLDivergence(1.0), kd.Hint("conv", "conv")]
    way = {"distillation_losses": losses, "distillation_loss_weights": "balanced"}
    space = teaching_space(**way, student_loss_weight=falling)
    run = trials_of(tmp_path, space, images(64, 0))
    candidate = Candidate("two", "way", "8 bits", "int8")
    assert "error" not in run.untrained(candidate)
    trained = []
    fit = Distiller.fit
    monkeypatch.setattr(Distiller, "fit", lambda d, *a, **k: trained.append(d) or fit(d, *a, **k))
    for _ in range(2):  # taught, and read
        restored = run._taught(candidate, 1)
        assert len(trained) == 1 and restored is not trained[0]
        weights, of_labels, projections = objective_of(restored)
        expected = objective_of(trained[0])
        assert weights == pytest.approx(expected[0]) and weights[1] not in (0.0, 1.0)
        assert of_labels == pytest.approx(0.8)  # two of ten steps
        assert projections
        for ours, theirs in zip(projections, expected[2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(
            restored.student.get_weights(), trained[0].student.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    file = tmp_path / "student.tflite"
    run.write(candidate, restored, [kd.QuantizeAware(1)], file)
    assert file.exists()
    # An earlier version kept the student alone.
    (kept,) = tmp_path.glob("trainings/*/00001.weights.h5")
    kept.unlink()
    values = restored.student.get_weights()
    np.savez(kept.with_name("00001.npz"), **{f"{i:06d}": x + 1 for i, x in enumerate(values)})
    for ours, old in zip(run._taught(candidate, 1).student.get_weights(), values, strict=True):
        np.testing.assert_array_equal(ours, old + 1)


def test_seconds_before_a_kill_count(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(trials.time, "perf_counter", lambda: clock[0])
    kept = []

    def trial(candidate, epochs, folder, watch):
        clock[0] += 3.0
        watch.on_epoch_end(0)
        kept.append(json.loads((folder / "seconds.json").read_text()))
        if len(kept) == 1:
            clock[0] += 1.0
            raise KeyboardInterrupt
        return {"error": None, "score": 1.0, "bytes": 1, "zipped_bytes": 1, "latency_ms": 1.0}

    run = SimpleNamespace(
        trial_folder=lambda candidate, epochs: tmp_path, _run=trial, options=OPTIONS
    )
    candidate = Candidate("a", "b", "c", "d")
    with pytest.raises(KeyboardInterrupt):
        Trials.run(run, candidate, 1, 1)
    clock[0] += 100.0  # in which nothing runs
    assert Trials.run(run, candidate, 1, 1)["seconds"] == 7.0
    assert kept == [3.0, 7.0]
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".json"] == ["record.json"]


def test_batches_of_a_py_dataset_are_shuffled(tmp_path):
    class Sorted(keras.utils.PyDataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return np.zeros((2, 8, 8, 1), "float32"), np.full(2, index)

    run = trials_of(tmp_path, teaching_space(), Sorted())
    orders = [
        [int(data[i][1][0]) for i in range(8)] for data in map(run.train.make, (1, 1, 2), (0,) * 3)
    ]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(8)) != orders[0]
    dataset = tf.data.Dataset.from_tensor_slices(images(6, 0)).batch(3)
    assert trials_of(tmp_path, teaching_space(), dataset).train is dataset


@pytest.mark.promise
def test_sorted_arrays_are_mixed_beside_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_BUFFER", 32)
    x, y = images(960, 0)
    order = np.argsort(y, kind="stable")
    run = trials_of(tmp_path, teaching_space(), (x[order], y[order]), cache_teacher=True)
    labels = [batch[1].numpy() for batch in run.train.make(0, 0)]
    assert all(len({*batch}) == 3 for batch in labels)
    assert sorted(np.concatenate(labels)) == sorted(y)


def augmented(examples, sizes=(4,)):
    """Return batches of 2 examples whose second pixel counts the passes."""
    passes = tf.Variable(0, dtype=tf.int64)
    x, y = images(examples, 0)

    def of_pass(_):
        count = tf.constant(sizes, tf.int64)[passes % len(sizes)]
        number = tf.cast(passes.assign_add(1), tf.float32)

        def mark(image, label):
            return tf.concat([image[:, :1], tf.fill((8, 1, 1), number), image[:, 2:]], 1), label

        return tf.data.Dataset.from_tensor_slices((x, y)).take(count).map(mark)

    return tf.data.Dataset.range(1).flat_map(of_pass).batch(2)


def test_every_epoch_reads_its_own_view(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "count_batches", lambda data: 2)
    train, options = augmented(4), {"cache_teacher": True, "views": 3}
    keras.utils.set_random_seed(0)
    run = trials_of(tmp_path, teaching_space(), train, **options)
    marks = [
        sorted({float(mark) for batch in batches for mark in batch[0].inputs[:, 0, 1, 0]})
        for batches in (run.train.make(5, 0), run.train.make(5, 4))
        for _ in range(4)
    ]
    assert all(len(each) == 1 for each in marks)
    seen = [each[0] for each in marks]
    assert len({*seen[:3]}) == 3 and seen[3] == seen[0]
    assert seen[4:] == [seen[1], seen[2], seen[0], seen[1]]
    batch = next(iter(run.train.make(5, 1)))[0]
    np.testing.assert_allclose(batch.outputs, run.teacher(batch.inputs), rtol=1e-5, atol=1e-6)
    # What is calibrated on does not change either.
    keras.utils.set_random_seed(0)  # the same teacher
    again = trials_of(tmp_path, teaching_space(), train, **options)
    np.testing.assert_array_equal(*(next(iter(each.batches))[0] for each in (run, again)))
    with pytest.raises(ValueError, match=r"same number of examples .*Received: \[4, 2, 4\]"):
        trials_of(tmp_path / "b", teaching_space(), augmented(4, (4, 2)), **options)


def test_a_search_of_before_views_goes_on(tmp_path):
    file = tmp_path / "search.json"
    _refuse_others(file, {"options": {"seed": 0}}, {"options": {"seed": 0, "views": None}})
    with pytest.raises(ValueError, match="other arguments: options"):
        _refuse_others(file, {"options": {"seed": 0}}, {"options": {"seed": 0, "views": 2}})


def test_other_folders_are_refused(given, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"not empty \('mine.txt'\)"):
        kd.search(**given, path=tmp_path)


def test_a_search_of_before_a_loss_got_an_argument_goes_on(tmp_path):
    newer = keras.saving.serialize_keras_object(kd.losses.KLDivergence(4.0))
    older = {key: x for key, x in newer["config"].items() if key != "standardize"}
    loss = {**newer, "config": older}
    file = tmp_path / "search.json"
    _refuse_others(file, {"teachings": {"soft": [loss]}}, {"teachings": {"soft": [newer]}})
    newer["config"]["standardize"] = True
    with pytest.raises(ValueError, match="other arguments: teachings"):
        _refuse_others(file, {"teachings": {"soft": [loss]}}, {"teachings": {"soft": [newer]}})


def test_an_optimizer_is_the_same_whatever_keras_calls_it(tmp_path):
    plans = [
        {"optimizer": keras.optimizers.serialize(keras.optimizers.Adam(rate, name=name))}
        for rate, name in ((0.1, "adam"), (0.1, "adam_1"), (0.2, "adam"))
    ]
    _refuse_others(tmp_path / "search.json", plans[0], plans[1])
    with pytest.raises(ValueError, match="other arguments: optimizer"):
        _refuse_others(tmp_path / "search.json", plans[0], plans[2])


def decaying(steps):
    return keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(0.03, steps, 0.0))


@pytest.mark.promise
@pytest.mark.parametrize("optimizer", [decaying, None])
def test_every_training_ends_with_a_rate_of_zero(given, tmp_path, optimizer, monkeypatch):
    few = {**given, "optimizer": optimizer, "trials": 4}  # three of one epoch, the best of three
    trained = []
    fit = Distiller.fit

    def recorded(distiller, *args, **kwargs):
        history = fit(distiller, *args, **kwargs)
        steps = int(distiller.optimizer.iterations)
        trained.append((kwargs["epochs"], steps, float(distiller.optimizer.learning_rate)))
        return history

    monkeypatch.setattr(Distiller, "fit", recorded)
    found = kd.search(**few, path=tmp_path / "a")
    assert {epochs for epochs, _, _ in trained} == {1, 3}
    for epochs, steps, rate in trained:
        assert steps == 3 * epochs  # 96 examples; each training from its own beginning
        assert rate == pytest.approx(0.0, abs=1e-9)
    longest = max(found.tried, key=lambda file: file.epochs)
    recipe = json.loads(longest.recipe.read_text())
    schedule = recipe["optimizer"]["config"]["learning_rate"]["config"]
    assert schedule["decay_steps"] == 3 * longest.epochs
    again = kd.search(**few, path=tmp_path / "b", recipe=longest.recipe)
    assert again.tried[0].file.read_bytes() == longest.file.read_bytes()


def test_a_function_that_returns_no_optimizer_is_refused_before_training(given, tmp_path):
    for wrong in (lambda steps: None, keras.optimizers.schedules.CosineDecay(0.1, 5)):
        with pytest.raises(TypeError, match=r"Received: optimizer\(9\)="):
            kd.search(**{**given, "optimizer": wrong}, path=tmp_path / "run")
    assert not (tmp_path / "run" / "teacher_cache").exists()


def test_students_that_differ_in_what_they_compute_are_others():
    def space(activation):
        def build(width, depth):
            inputs = keras.Input((4,))
            x = layers.Dense(width, activation=activation if depth == 1 else "tanh")(inputs)
            return keras.Model(inputs, layers.Dense(2)(x))

        return make_space(
            network(4), build, (4,), (1, 2), {"soft": {}}, {"none": []}, ("int8",), 1, False, 0
        )

    relu, gelu = space("relu"), space("gelu")
    assert list(relu.students) == ["width 4, depth 2", "width 4, depth 1"]
    assert relu.described() == space("relu").described()
    assert relu.described()["students"] != gelu.described()["students"]
    assert list(space("tanh").students) == ["width 4, depth 2"]  # both depths are one student


@pytest.mark.promise
def test_nothing_on_the_accelerator_is_no_latency(given, tmp_path):
    pytest.importorskip("ethosu")
    few = {**given, "widths": (0.25,), "device": "ethos-u55-128", "path": tmp_path / "run"}
    with pytest.raises(ValueError, match="no operator of their files runs on ethos-u55-128"):
        kd.search(**{**few, "formats": ("float16",)}, max_latency_ms=100.0)
    assert not (tmp_path / "run" / "trials").exists()


@pytest.mark.promise
def test_what_cannot_be_exported_is_said_to_have_failed(searched, given, monkeypatch):
    run = Trials(searched.path, given["teacher"], Space({}, {}, {}, [], []), given["train"],
                 given["validation_data"], {**OPTIONS, "optimizer": "adam"})  # fmt: skip
    run.not_exported = {"width 0.5 | none | int4": "no"}
    found = finish(run, None, None, writes=False)
    assert found.failed == (("width 0.5 | none | int4", "no"),)


def test_budgets():
    values = [budget_seconds(text) for text in ("90s", "30m", "1.5h", "1d", 12, None)]
    assert values == [90.0, 1800.0, 5400.0, 86400.0, 12.0, None]


PROCESS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import conftest_of_search as of_search
import keras_kd as kd
found = kd.search(**of_search.arguments(), path=sys.argv[2])
print(len(found.tried))
"""


@pytest.mark.slow
def test_two_workers_share_a_folder(searched, tmp_path, free_port):
    """A chief and two workers find what one process finds."""
    here = str(pathlib.Path(__file__).parent)
    processes = []
    for name in ("chief", "worker1", "worker2"):
        environment = {
            **os.environ,
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(free_port),
        }
        words = [sys.executable, "-c", PROCESS, here, str(tmp_path)]
        processes.append(subprocess.Popen(words, env=environment))
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    kept = json.loads((tmp_path / "result.json").read_text())
    assert len(kept["tried"]) == 6
    theirs = {
        pathlib.Path(found["folder"]).name: (
            found["metric"],
            found["bytes"],
            (tmp_path / "trials" / pathlib.Path(found["folder"]).name / "student.tflite")
            .read_bytes(),
        )
        for found in kept["front"]
    }  # fmt: skip
    assert theirs == figures(searched)


@pytest.mark.slow
def test_under_a_strategy(run_on_two_devices):
    here = str(pathlib.Path(__file__).parent)
    results = run_on_two_devices(
        f"""
import sys
sys.path.insert(0, {here!r})
import conftest_of_search as of_search
with strategy.scope():
    arguments = of_search.arguments()
    found = kd.search(**{{**arguments, "trials": 1, "epochs": 1}}, path="run")
results["files"] = len(found.tried)
results["bytes"] = found.front[0].bytes
"""
    )
    assert results["files"] == 1 and results["bytes"] > 1000
