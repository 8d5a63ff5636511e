"""What a search found: the front, the verdict on the limits, and the page."""

from __future__ import annotations

import dataclasses
import decimal
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.compression.running.run_plan import identity_of_data
from keras_kd.data.batches import as_batches
from keras_kd.planning.search.candidates import Candidate
from keras_kd.planning.search.trials import Trials, shown_epochs, shown_latency
from keras_kd.report.build import make_result, model_result
from keras_kd.report.files import write_report
from keras_kd.report.pareto import pareto_front
from keras_kd.system.arguments import exceeds
from keras_kd.system.files import write_json
from keras_kd.system.json_values import plain
from keras_kd.system.reading import read_json
from keras_kd.system.text_table import text_table

_INGREDIENTS = ("student", "teaching", "stages", "quantization")
# What a report of many files leaves out of those that are not on the front.
_LONG = ("per_class", "confusion", "calibration")


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """One file that a search trained, exported and measured.

    Attributes:
        candidate: The names of what it was made with: `student`, `teaching`, `stages`,
            `quantization`.
        epochs: Epochs that the student was taught.
        metric: The metric on the validation data.
        drop: Points (hundredths of the metric) that it lies below the teacher, or `None`.
        bytes: Size of the file.
        zipped_bytes: Size of the zipped file.
        latency_ms: Median latency in milliseconds, on this machine or estimated for the device;
            `None` if nothing of the file runs on the device's accelerator.
        seconds: How long the trial took.
        folder: The folder of the trial.
        test: What `evaluate_tflite` measured on the test data, and its `"metric"`; or `None`.
    """

    candidate: Candidate
    epochs: int
    metric: float
    drop: float | None
    bytes: int
    zipped_bytes: int
    latency_ms: float | None
    seconds: float
    folder: pathlib.Path
    test: dict[str, Any] | None = None

    @property
    def file(self) -> pathlib.Path:
        """The TFLite file; what it is stands beside it, in `student.tflite.json`."""
        return self.folder / "student.tflite"

    @property
    def model(self) -> pathlib.Path:
        """The student; `keras.models.load_model` reads it, `load_compressed` after stages."""
        return self.folder / "student.keras"

    @property
    def recipe(self) -> pathlib.Path:
        """All that was chosen; `search(..., recipe=)` makes the file again."""
        return self.folder / "recipe.json"


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found. Printing it gives the front and the verdict.

    Attributes:
        path: The folder of the search.
        front: The files to which no other is superior in size and metric, the smallest first.
        tried: All files.
        failed: What ended in an error, as pairs of the candidate and the error.
        best: The file to ship: of those that meet all limits the smallest if `max_drop` is a
            limit, else the one with the best metric; `None` if no file meets them.
        verdict: Whether the limits are met, and how far `best` is from the teacher; if they are
            not, how close the search came.
        reference: The metric of the teacher, or `None`.
        report: The page.
    """

    path: pathlib.Path
    front: tuple[FoundFile, ...]
    tried: tuple[FoundFile, ...]
    failed: tuple[tuple[str, str], ...]
    best: FoundFile | None
    verdict: str
    reference: float | None
    report: pathlib.Path

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict which `json.dumps` accepts."""
        content: dict[str, Any] = plain(dataclasses.asdict(self))
        return content

    def __str__(self) -> str:
        """Return a line for each file of the front, and the verdict."""
        lines = [["made with", "epochs", "metric", "test", "bytes", "zipped", "ms"]]
        lines += [
            [
                str(found.candidate), str(found.epochs), f"{found.metric:.4f}",
                "–" if found.test is None else f"{found.test['metric']:.4f}",
                f"{found.bytes:,}", f"{found.zipped_bytes:,}", shown_latency(found.latency_ms),
            ]
            for found in self.front
        ]  # fmt: skip
        return f"{text_table(lines)}\n{self.verdict}"


def finish(run: Trials, teacher_score: float | None, test_data: Any, writes: bool) -> SearchResult:
    """Return what the trials in a folder came to, and write it.

    Args:
        run: The trials.
        teacher_score: The teacher's figure of merit, or `None`.
        test_data: Data for the files of the front, or `None`.
        writes: Whether to measure on test data and to write the result and the page.

    Raises:
        ValueError: If no trial produced a file.
    """
    options = run.options
    sign = 1 if options["mode"] == "max" else -1
    size = "zipped_bytes" if options["zipped"] else "bytes"
    tried, measured, seconds = [], {}, 0.0
    failed = list(run.not_exported.items())
    for file in sorted((run.folder / "trials").glob("*/record.json")):
        record = read_json(file)
        candidate = Candidate(**record["candidate"])
        seconds += record["seconds"]
        if record["error"] is not None:
            failed.append((str(candidate), record["error"]))
            continue
        drop = None if teacher_score is None else 100 * (teacher_score - record["score"])
        figures = {key: record[key] for key in ("bytes", "zipped_bytes", "latency_ms", "seconds")}
        found = FoundFile(
            candidate, record["epochs"], sign * record["score"], drop, folder=file.parent, **figures
        )
        tried.append(found)
        measured[found.folder.name] = record["measured"]
    if not tried:
        reason = f" The first: {failed[0][1]}" if failed else " Give a larger `budget`."
        raise ValueError(f"No trial produced a file: {len(failed)} failed.{reason}")
    front = [tried[i] for i in pareto_front([(getattr(t, size), sign * t.metric) for t in tried])]
    tried.sort(key=lambda found: (getattr(found, size), found.folder.name))
    best, verdict = _judge(tried, options, size, sign)
    if test_data is not None and writes:
        # A limit on the latency may be met by files beside the front alone.
        shipped = {found.folder for found in front} | ({best.folder} if best else set())
        tested = {
            found.folder: dataclasses.replace(found, test=_tested(run, found, test_data))
            for found in tried
            if found.folder in shipped
        }
        front = [tested[found.folder] for found in front]
        tried = [tested.get(found.folder, found) for found in tried]
        best = tested[best.folder] if best else None
    result = SearchResult(
        run.folder,
        tuple(front),
        tuple(tried),
        tuple(failed),
        best,
        verdict,
        None if teacher_score is None else sign * teacher_score,
        run.folder / "report.html",
    )
    if writes:
        write_json(run.folder / "result.json", result.to_dict())
        write_report(_report(run, result, measured, seconds), run.folder)
        if options["verbose"]:
            print(result)
    return result


def _tested(run: Trials, found: FoundFile, test_data: Any) -> dict[str, Any]:
    arrays = test_data if isinstance(test_data, (tuple, list)) else None
    data = identity_of_data(as_batches(test_data, "test_data"), arrays)
    file = found.folder / "test.json"
    if file.exists() and read_json(file)["data"] == plain(data):
        return dict(read_json(file)["measured"])
    measured = run.measure(found.file, test_data).to_dict()
    sign = 1 if run.options["mode"] == "max" else -1
    measured["metric"] = sign * run.score(measured, "test")
    write_json(file, plain({"data": data, "measured": measured}))
    return dict(read_json(file)["measured"])


def _judge(
    tried: Sequence[FoundFile], options: Mapping[str, Any], size: str, sign: int
) -> tuple[FoundFile | None, str]:
    """Return the file to ship, and a sentence on the limits."""
    limits = {
        name: (key, options[name])
        for name, key in (
            ("max_bytes", size), ("max_drop", "drop"), ("max_latency_ms", "latency_ms"),
        )
        if options[name] is not None
    }  # fmt: skip

    def keeps(found: FoundFile, but: str | None = None) -> bool:
        return all(
            (value := getattr(found, key)) is not None and not exceeds(value, limit)
            for name, (key, limit) in limits.items()
            if name != but
        )

    kept = [found for found in tried if keeps(found)]
    if kept:
        by_size = "max_drop" in limits
        best = min(
            kept,
            key=lambda found: (
                (getattr(found, size), -sign * found.metric)
                if by_size
                else (-sign * found.metric, getattr(found, size))
            ),
        )
        what = "smallest file" if by_size else "best file"
        within = f" within {', '.join(f'{n}={v:,}' for n, (_, v) in limits.items())}"
        return best, (
            f"The {what}{within if limits else ''}: {best.candidate}, {shown_epochs(best.epochs)}, "
            f"{getattr(best, size):,} bytes, {options['metric']} {best.metric:.4f}"
            f"{_against_teacher(best)}: '{best.file}'."
        )
    ways = []
    for name, (key, limit) in limits.items():
        others = [f for f in tried if keeps(f, but=name) and getattr(f, key) is not None]
        if others:
            nearest = min(others, key=lambda found: getattr(found, key))
            needed = rounded_up(getattr(nearest, key))
            ways.append(f"{name}={limit:,} would have to be {needed} ({nearest.candidate})")
    if not ways:
        ways = ["no single limit is the reason: relax two of them"]
    return None, (
        f"No file meets all limits. Closest: {'; or '.join(ways)}. Otherwise give it more time "
        "(`budget`, `trials`, `epochs`) or other students."
    )


def _against_teacher(found: FoundFile) -> str:
    """Return how far a file is from the teacher, where that is known, as words of a sentence."""
    if found.drop is None:
        return ""
    points = f"{abs(found.drop):.2f}"
    if float(points) == 0:
        return ", equal to the teacher"
    return f", {points} points {'worse' if found.drop > 0 else 'better'} than the teacher"


def rounded_up(value: float) -> str:
    """Return a number as text, one with a fraction rounded up: as a limit it is large enough."""
    if isinstance(value, int):
        return f"{value:,}"
    context = decimal.Context(prec=6, rounding=decimal.ROUND_CEILING)
    return f"{float(context.create_decimal(repr(float(value)))):,.6g}"


def _report(
    run: Trials,
    result: SearchResult,
    measured: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    rows = []
    notes = [
        result.verdict,
        "All figures are of the validation data, by which the files were chosen: those of "
        "the chosen ones are somewhat flattered. Test data were used for no choice.",
    ]
    device = run.options["device"]
    if device is not None:
        notes.append(f"Latencies are estimates for {device}, by which the files were chosen.")
    teacher = run.reference["measured"]
    if teacher is not None:
        own = {**teacher, "path": "teacher/teacher.tflite"}
        if device is not None:
            own = _with_latency(own, None)
        rows.append(model_result("teacher", "Teacher", None, own, description="The teacher."))
    on_front = {found.folder.name for found in result.front}
    for found in result.tried:
        key, made = found.folder.name, found.candidate
        figures = dict(measured[key])
        if device is not None:
            figures = _with_latency(figures, found.latency_ms)
        if key not in on_front:
            figures = {name: value for name, value in figures.items() if name not in _LONG}
        rows.append(
            model_result(
                key,
                f"{made}, {shown_epochs(found.epochs)}",
                None,
                figures,
                description=f"Student: {made.student}. Teaching: {made.teaching}. Stages: "
                f"{made.stages}. Format: {made.quantization}. Taught for "
                f"{shown_epochs(found.epochs)}. "
                + ("" if found.test is None else f"Test data: {found.test['metric']:.4f}. ")
                + f"Recipe: trials/{key}/recipe.json.",
            )
        )
    best = {} if result.best is None else {"shipped": result.best.folder.name}
    by = {name: run.options[name] for name in ("metric", "mode")}
    return {
        **make_result(
            "Search of the smallest file that is good enough",
            rows,
            part="validation",
            recipe={key: run.options["plan"][key] for key in ("teachings", "stages", "options")},
            seconds={"all trials": seconds},
            notes=notes,
            packages=["keras-tuner"],
            **best,
        ),
        "ingredients": _ingredients(result),
        **({} if by["metric"] == "accuracy" else {"chosen_by": by}),
    }


def _with_latency(measured: Mapping[str, Any], latency: float | None) -> dict[str, Any]:
    """Return measurements with another latency, without those of this machine."""
    others = {name: value for name, value in measured.items() if not name.startswith("latency_")}
    return {**others, "latency_ms": latency}


def _ingredients(result: SearchResult) -> list[dict[str, Any]]:
    """Return what each choice of an ingredient came to, over all else that was chosen with it."""
    rows = []
    for ingredient in _INGREDIENTS:
        choices = dict.fromkeys(getattr(found.candidate, ingredient) for found in result.tried)
        for choice in choices:
            files = [f for f in result.tried if getattr(f.candidate, ingredient) == choice]
            rows.append(
                {
                    "ingredient": ingredient,
                    "choice": choice,
                    "files": len(files),
                    "on_front": sum(found in result.front for found in files),
                    "median_metric": statistics.median(found.metric for found in files),
                    "median_bytes": statistics.median(found.bytes for found in files),
                    "median_seconds": statistics.median(found.seconds for found in files),
                }
            )
    return rows
