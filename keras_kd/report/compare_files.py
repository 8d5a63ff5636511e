"""Several `.tflite` files in one Markdown table: metric, size and latency, over the seeds."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_kd.report.markdown import cell
from keras_kd.report.numbers import (
    ABSENT,
    accuracy_text,
    bytes_text,
    change_text,
    milliseconds_text,
    ratio_text,
)
from keras_kd.system.files import atomic_path
from keras_kd.system.text_table import markdown_table

if TYPE_CHECKING:
    from keras_kd.measuring.evaluate import TFLiteResult


def compare_files(
    results: Mapping[str, TFLiteResult | Sequence[TFLiteResult]],
    metric: str = "accuracy",
    folder: str | os.PathLike[str] | None = None,
) -> str:
    """Return a Markdown table of what was measured of several files.

    Args:
        results: By title, what `keras_kd.evaluate_tflite` returned: one result, or one per seed.
            The first title is what the others are compared with, the teacher as a rule.
        metric: What is shown of each: `"accuracy"`, or a name in the results' `metrics`. Defaults
            to `"accuracy"`.
        folder: Where to write the table too, as `results.json` and `table.md`. Defaults to `None`:
            nowhere.

    Returns:
        The table: one row per title with the metric's mean and sample standard deviation over the
        seeds, its change against the first title (accuracies in percentage points), the mean
        sizes and latency, and the size of the file divided by that of the first title's, below 1
        as `1/4.00`.

    Raises:
        ValueError: If there are no results, or one lacks the metric.

    Example:

    ```python
    files = {
        "teacher": kd.evaluate_tflite("exports/teacher.tflite", test),
        "student": kd.evaluate_tflite("exports/student.tflite", test),
    }
    print(kd.report.compare_files(files))
    ```
    """
    record = {
        "metric": metric,
        "files": {title: _record(title, runs, metric) for title, runs in results.items()},
    }
    table = files_table(record)
    if folder is not None:
        target = pathlib.Path(folder)
        for name, text in (("results.json", json.dumps(record, indent=1)), ("table.md", table)):
            with atomic_path(target / name) as temporary:
                temporary.write_text(text + "\n")
    return table


def files_table(record: Mapping[str, Any]) -> str:
    """Return the table of a record which `compare_files` wrote as `results.json`.

    Args:
        record: The `metric`, and `files`: by title the metric's `values` per seed, the means of
            `bytes`, `zipped_bytes` and `latency_ms`, and the `latency_batch`.

    Returns:
        A Markdown table without a final newline.

    Raises:
        ValueError: If the record has no files.
    """
    files = record["files"]
    if not files:
        raise ValueError("There is nothing to compare. Pass at least one result.")
    metric = record["metric"]
    counts = sorted({len(file["values"]) for file in files.values()})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    over = f", mean ± standard deviation of {seeds} seeds" if counts[-1] > 1 else ""
    first = next(iter(files))
    rows = [
        ("file", f"{metric}{over}", f"against {cell(first)}", "size", "zipped",
         f"size against {cell(first)}", "latency, ms")
    ]  # fmt: skip
    for title, file in files.items():
        change = _change_text(file["values"], files[first]["values"], metric)
        rows.append(
            (
                cell(title),
                _value_text(file["values"], metric),
                ABSENT if title == first else change,
                bytes_text(file["bytes"]),
                bytes_text(file["zipped_bytes"]),
                ratio_text(file["bytes"] / files[first]["bytes"]),
                _latency_text(file),
            )
        )
    return markdown_table(rows)


def _record(title: str, runs: TFLiteResult | Sequence[TFLiteResult], metric: str) -> dict[str, Any]:
    results = list(runs) if isinstance(runs, Sequence) else [runs]
    if not results:
        raise ValueError(f"There is no result of {title!r}.")
    return {
        "values": [_value(title, result, metric) for result in results],
        "bytes": statistics.mean(result.bytes for result in results),
        "zipped_bytes": statistics.mean(result.zipped_bytes for result in results),
        "latency_ms": statistics.mean(result.latency_ms for result in results),
        "latency_batch": results[0].latency_batch,
    }


def _latency_text(file: Mapping[str, Any]) -> str:
    batch = file.get("latency_batch", 1)
    of = f" for {batch} samples" if batch > 1 else ""
    return f"{milliseconds_text(file['latency_ms'])}{of}"


def _value(title: str, result: TFLiteResult, metric: str) -> float:
    known = dict(getattr(result, "metrics", None) or {})
    if result.accuracy is not None:  # a metric of that name may have another threshold
        known["accuracy"] = result.accuracy
    known = {name: value for name, value in known.items() if value is not None}
    if metric not in known:
        raise ValueError(
            f"The result of {title!r} has no metric {metric!r}; it has {sorted(known)}. Pass "
            "`metrics=` to `evaluate_tflite`, or labels in its data for the accuracy."
        )
    return float(known[metric])


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _value_text(values: Sequence[float], metric: str) -> str:
    mean, spread = statistics.mean(values), _spread(values)
    if metric == "accuracy":
        return accuracy_text(mean, spread)
    return f"{mean:#.4g}" if spread is None else f"{mean:#.4g} ± {spread:.2g}"


def _change_text(values: Sequence[float], first: Sequence[float], metric: str) -> str:
    change = statistics.mean(values) - statistics.mean(first)
    if metric == "accuracy":
        return change_text(-100 * change)
    return f"{change:+.3g}".replace("-", "−")
