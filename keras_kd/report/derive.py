"""Values derived from the measurements of a result: means, ratios, Pareto fronts."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from keras_kd.report.pareto import COSTS, cost_of, front_keys
from keras_kd.report.schema import SCHEMA_VERSION, check_result, with_current_names
from keras_kd.report.sentences import headline
from keras_kd.system.json_values import plain


def complete_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `result` with everything filled in that follows from its measurements.

    Args:
        result: A dict in the form of a report.

    Returns:
        A copy in which each model has `accuracy`, `ratio_to_teacher`, `accuracy_drop_points` and
        the changes of its classes, and the result has `schema_version`, `headline` and
        `pareto_fronts`. Numbers are plain Python numbers, and those that are not finite are
        `None`.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys are missing or values are of another type.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"A report is made from a dict. Received: {type(result).__name__}.")
    full: dict[str, Any] = plain(copy.deepcopy(dict(result)), otherwise=str)
    _prepare(full)
    check_result(full)
    full.setdefault("notes", [])
    models = full["models"]
    for model in models:
        for key in ("curves", "layers", "stages"):
            model.setdefault(key, [])
        values = [seed["accuracy"] for seed in model["seeds"].values()]
        model["accuracy"] = _accuracy(values, model.get("samples"))
    teacher = next((model for model in models if model["key"] == "teacher"), None)
    for model in models:
        model["ratio_to_teacher"] = _ratios(model, teacher)
        model["accuracy_drop_points"] = None if model is teacher else _drop(model, teacher)
        _compare_classes(model, teacher)
    full["schema_version"] = SCHEMA_VERSION
    full["headline"] = headline(models, searched=bool(full.get("ingredients")))
    full["pareto_fronts"] = {
        cost: front_keys(models, cost, full.get("chosen_by")) for cost in COSTS
    }
    return full


def _prepare(full: dict[str, Any]) -> None:
    """Forget what is computed here, whatever it held before, and take older names for today's."""
    for key in ("schema_version", "headline", "pareto_fronts"):
        full.pop(key, None)
    models = full.get("models")
    for model in models if isinstance(models, list) else ():
        if not isinstance(model, dict):
            continue
        for key in ("accuracy", "ratio_to_teacher", "accuracy_drop_points"):
            model.pop(key, None)
        if "file" in model:
            model["file"] = with_current_names(model["file"])
        if isinstance(seeds := model.get("seeds"), dict):
            model["seeds"] = {name: with_current_names(seed) for name, seed in seeds.items()}
        if isinstance(stages := model.get("stages"), list):
            model["stages"] = [with_current_names(stage) for stage in stages]


def _accuracy(values: list[float | None], samples: int | None) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return {
        "mean": mean,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "values": values,
        "interval": None if mean is None or not samples else wilson(mean, samples),
    }


def wilson(share: float, samples: int, z: float = 1.959964) -> list[float]:
    """Return Wilson's 95 % interval of a share of `samples` (Wilson 1927)."""
    factor = 1 / (1 + z * z / samples)
    center = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return [max(0.0, factor * (center - half)), min(1.0, factor * (center + half))]


def _drop(model: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> float | None:
    own = model["accuracy"]["mean"]
    teachers = None if teacher is None else teacher["accuracy"]["mean"]
    return None if own is None or teachers is None else 100 * (teachers - own)


def _ratios(model: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> dict[str, float | None]:
    def ratio(own: float | None, teachers: float | None) -> float | None:
        return own / teachers if own is not None and teachers else None

    return {
        "parameters": ratio(model["parameters"], teacher["parameters"] if teacher else None),
        **{
            cost: ratio(cost_of(model, cost), None if teacher is None else cost_of(teacher, cost))
            for cost in COSTS
        },
    }


def _compare_classes(model: dict[str, Any], teacher: Mapping[str, Any] | None) -> None:
    theirs = _by_label(() if teacher is None else teacher.get("per_class") or ())
    for entry in model.get("per_class") or ():
        other = theirs.get(entry["label"])
        known = model is not teacher and None not in (other, entry["accuracy"])
        entry["change_points"] = 100 * (entry["accuracy"] - other) if known else None


def _by_label(entries: Iterable[Mapping[str, Any]]) -> dict[Any, float | None]:
    return {entry["label"]: entry["accuracy"] for entry in entries}
