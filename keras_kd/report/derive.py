"""What is computed from a result: means, ratios to the teacher, the Pareto front, the headline."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_kd.report.numbers import bytes_text, percent_text, ratio_text
from keras_kd.report.schema import SCHEMA_VERSION, check_result

# A file counts as "as good as the teacher" in the headline up to this many percentage points.
_TOLERATED_DROP = 1.0


def complete_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `result` with everything filled in that follows from its measurements.

    Args:
        result: A dict in the form of `keras_kd.report.schema.Result`.

    Returns:
        A copy in which each model has `accuracy`, `ratio_to_teacher` and `accuracy_drop_points`,
        and the result has `schema_version` and `headline`. Numbers are plain Python numbers, and
        those that are not finite are `None`.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys are missing.
    """
    check_result(result)
    full: dict[str, Any] = _plain(copy.deepcopy(dict(result)))
    for key in ("curves", "layers", "notes"):
        full.setdefault(key, [])
    models = full["models"]
    for model in models:
        model["accuracy"] = _accuracy(seed["accuracy"] for seed in model["seeds"].values())
    teacher = _model(models, "teacher")
    for model in models:
        model["ratio_to_teacher"] = _ratios(model, teacher)
        model["accuracy_drop_points"] = (
            None
            if teacher is None or model is teacher
            else 100 * (teacher["accuracy"]["mean"] - model["accuracy"]["mean"])
        )
    full["schema_version"] = SCHEMA_VERSION
    full["headline"] = _headline(models, teacher)
    return full


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (size, accuracy) to which no other point is superior.

    Args:
        points: Pairs of a size, where less is better, and an accuracy, where more is better.

    Returns:
        Indices by ascending size. Of equal points, the first counts.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _plain(value: Any) -> Any:
    """Make `value` JSON: NumPy's numbers become Python's, infinities and NaN become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)  # paths and dates


def _accuracy(values: Iterable[float]) -> dict[str, Any]:
    values = list(values)
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def _ratios(model: dict[str, Any], teacher: dict[str, Any] | None) -> dict[str, float | None]:
    def ratio(own: float | None, teachers: float | None) -> float | None:
        return own / teachers if own is not None and teachers else None

    def measured(entry: dict[str, Any] | None, key: str) -> float | None:
        return entry["file"][key] if entry is not None and entry["file"] is not None else None

    return {
        "parameters": ratio(model["parameters"], teacher["parameters"] if teacher else None),
        "bytes": ratio(measured(model, "bytes"), measured(teacher, "bytes")),
        "zipped_bytes": ratio(measured(model, "zipped_bytes"), measured(teacher, "zipped_bytes")),
        "latency": ratio(
            measured(model, "latency_ms_median"), measured(teacher, "latency_ms_median")
        ),
    }


def _model(models: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return next((model for model in models if model["key"] == key), None)


def _headline(models: list[dict[str, Any]], teacher: dict[str, Any] | None) -> list[str]:
    sentences = []
    smallest = _smallest(models, teacher)
    if smallest is not None:
        sentences.append(_smallest_sentence(smallest, teacher))
    alone, distilled = _model(models, "student_alone"), _model(models, "distilled")
    if alone is not None and distilled is not None:
        sentences.append(_distilled_sentence(alone["accuracy"], distilled["accuracy"]))
    return sentences


def _smallest(
    models: list[dict[str, Any]], teacher: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The smallest file close to the teacher's accuracy; the smallest of all where none is."""
    files = [model for model in models if model["file"] is not None and model is not teacher]
    if not files:
        return None

    def drop(model: dict[str, Any]) -> float:
        return model["accuracy_drop_points"] or 0.0

    close = [model for model in files if drop(model) <= _TOLERATED_DROP]
    return min(close or files, key=lambda model: (model["file"]["bytes"], drop(model)))


def _smallest_sentence(model: dict[str, Any], teacher: dict[str, Any] | None) -> str:
    accuracy = percent_text(model["accuracy"]["mean"])
    size = bytes_text(model["file"]["bytes"])
    ratio = model["ratio_to_teacher"]["bytes"]
    if teacher is None or ratio is None:
        return f"{model['title']}: {size}, {accuracy} accuracy."
    drop = model["accuracy_drop_points"]
    change = f"{abs(drop):.1f} points {'below' if drop >= 0 else 'above'}"
    return (
        f"{model['title']}: {ratio_text(ratio)} of the teacher's bytes "
        f"({size} instead of {bytes_text(teacher['file']['bytes'])}), {accuracy} accuracy, "
        f"{change} the teacher's {percent_text(teacher['accuracy']['mean'])}."
    )


def _distilled_sentence(alone: dict[str, Any], distilled: dict[str, Any]) -> str:
    gain = 100 * (distilled["mean"] - alone["mean"])
    count = min(len(alone["values"]), len(distilled["values"]))
    change = f"{abs(gain):.1f} points {'above' if gain >= 0 else 'below'}"
    sentence = f"Taught by the teacher, the student is {change} the same student trained alone"
    if count == 1:
        return f"{sentence} (one seed, so chance is not excluded)."
    spread = 100 * max(alone["std"] or 0.0, distilled["std"] or 0.0)
    within = ", which is within that spread" if abs(gain) <= spread else ""
    return (
        f"{sentence} (mean of {count} seeds; standard deviation up to {spread:.1f} points{within})."
    )
