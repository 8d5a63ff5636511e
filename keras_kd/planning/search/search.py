"""search: from a teacher and a limit to the smallest file that is good enough."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.utils import PyDataset

from keras_kd.compression.running.described import as_plan, with_functions
from keras_kd.compression.running.run_plan import identity_of_data, with_new_arguments
from keras_kd.compression.stages.stage import Stage
from keras_kd.data.batches import as_batches, refuse_endless
from keras_kd.models.layers import identity_of
from keras_kd.planning.search.candidates import Candidate, make_space
from keras_kd.planning.search.engine import choose_engine, role
from keras_kd.planning.search.results import SearchResult, finish, rounded_up
from keras_kd.planning.search.trials import FORMAT, Trials
from keras_kd.system.arguments import number, with_added
from keras_kd.system.files import write_json
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.names import one_of, suggests_arguments
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.system.reading import read_json

# How much a figure may change between the untrained file and the trained one.
_SIZE_MARGIN = 1.02
_LATENCY_MARGIN = 1.25
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@suggests_arguments
def search(
    teacher: Any,
    train: Any,
    validation_data: Any,
    *,
    students: Any = None,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    device: str | None = None,
    zipped: bool = False,
    budget: str | float | None = None,
    trials: int | None = None,
    path: str | os.PathLike[str] = "runs/search",
    test_data: Any = None,
    widths: Sequence[float] = (0.75, 0.5, 0.35, 0.25, 0.125),
    depths: Sequence[float] = (1.0, 0.5),
    teachings: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Mapping[str, Sequence[Stage]] | None = None,
    formats: Sequence[str] = ("int8", "dynamic", "float16"),
    epochs: int = 9,
    optimizer: Any = None,
    loss: Any = None,
    metric: str = "accuracy",
    mode: str = "max",
    measuring: Mapping[str, Any] | None = None,
    exporting: Mapping[str, Any] | None = None,
    reference: float | None = None,
    cache_teacher: bool = True,
    views: int | None = None,
    engine: str | None = None,
    seed: int = 0,
    recipe: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> SearchResult:
    """Search the smallest file that is good enough.

    Tries students, ways of teaching, stages and formats. Every candidate is taught, compressed,
    exported, and its file measured on the validation data. Of three candidates the most promising
    is trained three times as long, and so on (Hyperband). Promising are the most accurate, and in
    turn with them whatever adds most to the front of sizes and accuracies. The teacher runs once,
    into a cache.

    Limits that no candidate can keep are refused before training: files of untrained students are
    measured first, and candidates that are too large are never trained. (The size of a zipped file
    is known after training only.) Whatever is done is kept in `path`: the same call resumes a
    killed search, and ends with the front that it would have had. More `trials` or a larger
    `budget` continue it. Needs KerasTuner (`pip install "keras-kd[search]"`).

    Several processes share one search if each makes the same call with KerasTuner's variables
    `KERASTUNER_TUNER_ID` (`chief`, or a name per worker), `KERASTUNER_ORACLE_IP` and
    `KERASTUNER_ORACLE_PORT` in its environment and the same `path`. The chief trains nothing, and
    writes the result.

    Args:
        teacher: The teacher, as for `Distiller`.
        train: Training data: a `tf.data.Dataset` of batches, the same in every pass or with
            `views`, or a tuple of arrays `(x, y)`. Arrays are shuffled in every epoch; of a
            dataset 10,000 examples at a time, so sorted ones should be shuffled before. With
            `cache_teacher=False` also a `keras.utils.PyDataset`, whose batches are shuffled, while
            a dataset is read as it is.
        validation_data: What files are measured and chosen by, as for `evaluate_tflite`.
        students: A function `build(width, depth)` that returns a built model, or a list of models.
            Defaults to `None`: the teacher, shrunk.
        max_bytes: Largest file, in bytes. Defaults to `None`: no limit, as the next two.
        max_drop: Points (hundredths of the metric) that a file may lie below the teacher.
        max_latency_ms: Longest latency in milliseconds, on this machine or the `device`.
        device: An Arm Ethos-U, as for `device_cost`, whose estimated latency counts. Defaults to
            `None`: the median latency on this machine.
        zipped: Whether the size is that of the zipped file. Pruned and clustered students are
            tried only then: zeros and shared values make no other file smaller. Defaults to
            `False`.
        budget: Time of all trials together, after which none begins: seconds, or `"90s"`, `"30m"`,
            `"2h"`, `"1d"`. Defaults to `None`: `"2h"` where `trials` is not given, else no limit.
        trials: Number of trials. With `trials` alone the front does not depend on the machine's
            speed. Defaults to `None`.
        path: The folder of the search. Defaults to `"runs/search"`.
        test_data: Data on which the best file and those of the front are measured once, after all
            choices. Defaults to `None`.
        widths: Widths of students: the fraction of the teacher's channels that stays, or what
            `build` takes. Defaults to five from 0.75 to 0.125.
        depths: The same for the number of residual blocks. Defaults to `(1.0, 0.5)`; what a
            teacher without such blocks cannot do is left out.
        teachings: Arguments of `Distiller` by the name of a way of teaching. Defaults to `None`:
            the pairs (temperature, weight of the labels) (1, 0.1), (4, 0.1) and (4, 0.5).
        stages: Lists of stages by name, as for `compress`; an empty list for none. Their epochs
            belong to a whole training, and are shortened with it. Defaults to `None`: none, and
            `QuantizeAware` of 8 bits and, with `keras-kd[int4]`, of 4; with `zipped` also `Prune`
            and `Cluster`.
        formats: Formats of students that no stage quantized; the others have the format that they
            were trained for. Defaults to `("int8", "dynamic", "float16")`.
        epochs: Epochs of a whole training. Defaults to `9`.
        optimizer: A function that takes the number of steps of a training and returns its
            optimizer, such as one whose learning rate decays to zero in these steps. Every
            training then starts from the beginning. With an optimizer or its name, a longer
            training continues the shorter one; its learning rate should be constant. Defaults to
            `None`: Adam with a cosine decay.
        loss: The loss on labels. Defaults to `None`: the cross-entropy for integer labels.
        metric: What files are chosen by: `"accuracy"`, or the name of one of the `metrics` in
            `measuring`. Defaults to `"accuracy"`.
        mode: `"max"` if a larger metric is better, or `"min"`. Defaults to `"max"`.
        measuring: Further arguments of `evaluate_tflite`, such as `{"metrics": ["mae"]}`. Defaults
            to `None`.
        exporting: Further arguments of `export_tflite`, such as `{"class_names": ["cat", "dog"]}`.
            Defaults to `None`.
        reference: The metric of the teacher on the validation data. Defaults to `None`: measured
            on its own file, if it can be exported.
        cache_teacher: Whether the teacher runs once. With `False` it runs in every step; data
            may then be augmented at random, and a killed search need not end with the same front.
            Defaults to `True`.
        views: For data that are augmented at random: the teacher runs over so many passes, which
            are stored with its outputs; the epochs of every training read them in turn. A killed
            search ends with the same front. Defaults to `None`: the data are the same in every
            pass.
        engine: KerasTuner's oracle: `"hyperband"`, `"random"`, `"bayesian"` or `"grid"`; all but
            the first train every candidate to the end. Defaults to `None`: that of the search in
            `path`; of a new one `"hyperband"`. Where there are too few candidates or trials for
            it, or a whole training has fewer than 1,000 steps, so that stopping it early saves
            nothing: `"bayesian"`, or `"random"` of several processes.
        seed: Fixes what is random. Defaults to `0`.
        recipe: The `recipe.json` of a file of an earlier search: it alone is made again, by the
            arguments of that search, in another `path`. Defaults to `None`.
        verbose: Whether to print a line per trial. Defaults to `True`.

    Returns:
        A `SearchResult`.

    Raises:
        ImportError: If KerasTuner is not installed.
        ValueError: If no candidate can keep a limit, an argument makes no sense, or `path` holds
            another search.
        TypeError: If an argument is of the wrong kind.
        OSError: If `path` cannot be written to, or another process is at work in it.

    Example:

    ```python
    found = keras_kd.search(
        teacher, train, validation, max_bytes=100_000, max_drop=1.0, test_data=test, budget="2h"
    )
    print(found)
    print(found.best.file, found.report)
    ```

    Reference:
        Li et al., Hyperband, 2018, arXiv:1603.06560.
    """
    options = dict(locals())
    part = role()
    _check(options)
    for name in ("teacher", "train", "validation_data", "test_data", "students", "stages"):
        del options[name]
    if budget is None and trials is None:
        budget = "2h"
    options |= {"budget": budget_seconds(budget), "measuring": dict(measuring or {})}
    options["exporting"] = dict(exporting or {})
    space = make_space(
        teacher, students, widths, depths, teachings, stages, formats, epochs, zipped, seed, loss
    )
    if loss is None:
        outputs = keras.tree.flatten(next(iter(space.students.values()))().outputs)
        binary = outputs[0].shape[-1] == 1
        options["loss"] = "binary_crossentropy" if binary else "sparse_categorical_crossentropy"
    folder = pathlib.Path(path)
    run = Trials(folder, teacher, space, train, validation_data, options)
    options["plan"] = plan = _plan(run)
    held = folder / "workers" / os.environ["KERASTUNER_TUNER_ID"] if part == "worker" else folder
    alone = contextlib.nullcontext() if part == "alone" else held_folder(
        folder / "prepare", wait_for="Another process prepares the search: waiting for it."
    )  # fmt: skip
    with held_folder(held), without_retracing_warnings():
        with alone:
            _open(folder, plan)
            if verbose:
                for sentence in space.skipped:
                    print(sentence)
            run.prepare()
            teacher_score = _reference(run, reference, test_data)
            if max_drop is not None and teacher_score is None:
                raise ValueError(
                    "`max_drop` counts from the teacher, whose own file cannot be measured on the "
                    f"validation data: {run.reference.get('error')} Pass `reference=`, "
                    "the teacher's metric on it."
                )
            candidates = _candidates(run)
            if recipe is None:
                engine = _engine(folder, engine, len(candidates), epochs, trials, run.steps)
        if part == "worker":  # the chief decides on what is tried, by latencies of its own
            candidates = space.all_candidates()
        if recipe is None:
            from keras_kd.planning.search.oracles import run_engine  # with KerasTuner

            run_engine(
                str(engine),
                candidates,
                run.run,
                folder,
                epochs=epochs,
                trials=trials,
                budget=options["budget"],
                cost="zipped_bytes" if zipped else "bytes",
                most=max_bytes,
                seed=seed,
            )
        else:
            run.run(*_one(recipe, plan), 1)
        return finish(run, teacher_score, test_data, writes=part != "worker")


def _check(options: Mapping[str, Any]) -> None:
    for name in ("max_bytes", "trials"):
        number(name, options[name], least=1, whole=True, optional=True)
    number("max_latency_ms", options["max_latency_ms"], above=0, optional=True)
    number("max_drop", options["max_drop"], least=0, optional=True)
    number("epochs", options["epochs"], least=1, whole=True)
    number("seed", options["seed"], least=0, whole=True)
    number("reference", options["reference"], optional=True)
    one_of("mode", options["mode"], ("max", "min"))
    if options["validation_data"] is None:
        raise ValueError(
            "`validation_data` is what files are chosen by. Received: validation_data=None."
        )
    choose_engine(options["engine"], 1, 1, None, 1)
    refuse_endless(options["train"], "train")
    number("views", options["views"], least=1, whole=True, optional=True)
    if options["views"] is not None:
        if not options["cache_teacher"]:
            raise ValueError(
                "`views` are passes over which the teacher runs once. Received: "
                f"views={options['views']}, cache_teacher=False. Leave one of them out."
            )
        if not isinstance(options["train"], tf.data.Dataset):
            raise TypeError(
                "`views` are passes over a tf.data.Dataset that augments its examples at random. "
                f"Received: views={options['views']}, train of the type "
                f"{type(options['train']).__name__}. Leave `views` out."
            )


def budget_seconds(budget: str | float | None) -> float | None:
    """Return the seconds of a budget such as `"2h"`; `None` of `None`.

    Raises:
        ValueError: If it is neither such a text nor a number above 0.
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"([0-9.]+) ?([smhd])", budget)
        try:
            value = float(match[1]) * _UNITS[match[2]] if match else None
        except ValueError:
            value = None
        if value is None:
            raise ValueError(
                f'`budget` must be seconds, or as "90s", "30m", "2h", "1d". '
                f"Received: budget={budget!r}."
            )
        budget = value
    return None if budget is None else float(number("budget", budget, above=0))


def _plan(run: Trials) -> dict[str, Any]:
    """Return what decides on the figures of a trial: two searches with one plan are the same."""
    space, options = run.space, run.options
    arrays = run.raw if isinstance(run.raw, (tuple, list)) else None
    student = next(iter(space.students.values()))()
    distiller = run.distiller(student, next(iter(space.teachings)))
    keys = (
        "epochs", "loss", "metric", "mode", "measuring", "exporting", "device", "cache_teacher",
        "seed", "views",
    )  # fmt: skip
    plan: dict[str, Any] = as_plan(
        {
            "teacher": identity_of(run.teacher),
            "data": identity_of_data(run.batches, arrays),
            "validation_data": identity_of_data(_batches(run.validation_data)),
            **space.described(),
            "options": {key: options[key] for key in keys},
            "optimizer": keras.optimizers.serialize(distiller.optimizer),
        }
    )
    return plan


def _batches(data: Any) -> Any:
    return as_batches(data, "validation_data")


def _open(folder: pathlib.Path, plan: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but this search."""
    file = folder / "search.json"
    if file.exists():
        kept = read_json(file)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise ValueError(f"'{file}' is not a record of a search. Pass a new folder as `path`.")
        _refuse_others(file, kept.get("plan") or {}, plan)
        return
    others = [entry.name for entry in folder.iterdir() if entry.name[0] != "."]
    if others := sorted({*others} - {"prepare", "workers", "engine"}):
        raise ValueError(
            f"'{folder}' is not empty ('{others[0]}') and holds no search. Pass a new folder as "
            "`path`."
        )
    write_json(file, {"format": FORMAT, "plan": plan})


def _engine(
    folder: pathlib.Path,
    given: str | None,
    candidates: int,
    epochs: int,
    trials: int | None,
    steps: int,
) -> str:
    """Return the engine of the search in a folder; more trials or time do not change it."""
    file = folder / "search.json"
    content = read_json(file)
    kept = content.get("engine")
    if kept is None:
        kept = choose_engine(given, candidates, epochs, trials, epochs * steps)
        write_json(file, {**content, "engine": kept})
    _refuse_others(file, {"engine": kept}, {"engine": given or kept})
    return str(kept)


def _refuse_others(file: pathlib.Path, kept: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    kept = with_new_arguments(with_functions(kept, plan), plan)
    kept = with_added(kept, plan, {"options": {"views": None}})
    differing = [key for key in plan if kept.get(key) != plan[key]]
    if differing:
        raise ValueError(
            f"'{file}' is of a search with other arguments: {', '.join(differing)}. Pass the "
            "original ones, or a new folder as `path`."
        )


def _one(recipe: str | os.PathLike[str], plan: Mapping[str, Any]) -> tuple[Candidate, int]:
    file = pathlib.Path(recipe)
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"'{file}' is not a recipe of a search. Pass the recipe.json of a file.")
    _refuse_others(file, content["plan"], plan)
    return Candidate(**content["candidate"]), content["epochs"]


def _reference(run: Trials, given: float | None, test_data: Any) -> float | None:
    """Return the teacher's figure of merit; refuse data on which there is none."""
    measured = run.reference["measured"]
    score = None if measured is None else run.score(measured)
    with tempfile.TemporaryDirectory() as temporary:
        file = run.folder / "teacher" / "teacher.tflite"
        if measured is None or not file.exists():
            file = pathlib.Path(temporary) / "student.tflite"
            candidate = run.space.candidates(next(iter(run.space.teachings)))[0]
            student = run.space.students[candidate.student]()
            run.write(candidate, run.distiller(student, candidate.teaching), [], file)
        if measured is None:
            run.score(run.measure(file, run.validation_data).to_dict())
        if test_data is not None:
            batches = as_batches(test_data, "test_data")
            batches = [batches[0]] if isinstance(batches, PyDataset) else batches.take(1)
            run.score(run.measure(file, batches).to_dict(), "test")
    if given is None:
        return score
    return given if run.options["mode"] == "max" else -given


def _candidates(run: Trials) -> list[Candidate]:
    """Return the candidates that may keep the limits on size and latency.

    Raises:
        ValueError: If none of them can.
    """
    options, space = run.options, run.space
    margin = _LATENCY_MARGIN if options["device"] is None else 1.0
    limits = {
        name: (key, options[name], by)
        for name, key, by in (
            ("max_bytes", "bytes", _SIZE_MARGIN),
            ("max_latency_ms", "latency_ms", margin),
        )
        # How well a file can be zipped is known after training only.
        if options[name] is not None and (name != "max_bytes" or not options["zipped"])
    }
    allowed = {candidate.file for candidate in space.candidates("")}
    if limits:
        from tqdm import tqdm

        first = space.candidates(next(iter(space.teachings)))
        bar = tqdm(first, "Measuring untrained files", disable=None if options["verbose"] else True)
        found = {candidate.file: run.untrained(candidate) for candidate in bar}
        errors = {file: entry["error"] for file, entry in found.items() if "error" in entry}
        sizes = {file: entry for file, entry in found.items() if file not in errors}
        if not sizes:
            raise ValueError(f"No candidate can be exported: {next(iter(errors.values()))}")
        run.not_exported = errors
        measured = len(sizes)
        for name, (key, limit, by) in limits.items():
            left_out = len(sizes) < measured
            sizes = {file: entry for file, entry in sizes.items() if entry[key] is not None}
            if not sizes:
                raise ValueError(
                    f"No candidate can keep `{name}`: no operator of their files runs on "
                    f"{options['device']}. Received: formats={list(options['formats'])}. Give "
                    '"int8" among the `formats`.'
                )
            least = min(sizes, key=lambda file: sizes[file][key])
            if sizes[least][key] > limit * by:
                what, unit = ("fastest", "ms") if key == "latency_ms" else ("smallest", "bytes")
                # What another limit leaves out may be faster.
                both = " together with `max_bytes`" if left_out else ""
                raise ValueError(
                    f"No candidate can keep `{name}`{both}: the {what} file, of an untrained "
                    f"student ({least}), has {rounded_up(sizes[least][key])} {unit}. Received: "
                    f"{name}={limit:,}. Raise it, or give smaller `widths`, other `students` or "
                    "`formats` of fewer bits."
                )
            sizes = {file: entry for file, entry in sizes.items() if entry[key] <= limit * by}
        allowed = set(sizes)
    return [candidate for candidate in space.all_candidates() if candidate.file in allowed]
