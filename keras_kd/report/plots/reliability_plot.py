"""Reliability diagrams: accuracy against confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.report.numbers import percent_text
from keras_kd.report.plots.figure import GRID, INK, MUTED, SERIES, figure, svg

# Of fewer answers, most of 15 bins hold too few to tell an accuracy.
LEAST_SAMPLES = 1000


def reliability_diagrams(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw accuracy against confidence, one diagram per model (Guo et al. 2017, 1706.04599).

    Args:
        models: The models of a completed result.

    Returns:
        Dicts of `title`, `error` (the expected calibration error) and `svg`, for each model whose
        calibration was measured on `LEAST_SAMPLES` answers or more.
    """
    measured = calibrated(models)
    teacher = next((model for model in measured if model["key"] == "teacher"), None)
    return [
        {
            "title": model["title"],
            "error": model["calibration"]["expected_calibration_error"],
            "svg": _diagram(f"reliability{i}", model, None if model is teacher else teacher),
        }
        for i, model in enumerate(measured)
    ]


def calibrated(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the models whose calibration was measured on `LEAST_SAMPLES` answers or more."""
    return [model for model in models if _answers(model) >= LEAST_SAMPLES]


def without_calibration(models: Sequence[Mapping[str, Any]]) -> str:
    """Return why no calibration is shown, `""` where one is shown or none was measured."""
    answers = max(map(_answers, models), default=0)
    if not 0 < answers < LEAST_SAMPLES:
        return ""
    return f"Not shown: it needs {LEAST_SAMPLES:,} samples. There are {answers:,}."


def _answers(model: Mapping[str, Any]) -> int:
    return sum(entry["samples"] for entry in (model.get("calibration") or {}).get("bins") or ())


def _diagram(key: str, model: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> str:
    bins = model["calibration"]["bins"]
    total = sum(entry["samples"] for entry in bins) or 1
    with figure(2.2, 2.3) as drawn:
        axes = drawn.subplots()
        for entry in bins:
            # How many answers are that sure, at the foot: one fifth of the height for all.
            axes.bar(
                entry["low"],
                0.2 * entry["samples"] / total,
                width=entry["high"] - entry["low"],
                align="edge",
                color=GRID,
                edgecolor=MUTED,
                linewidth=0.5,
            )
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        if teacher is not None:
            axes.plot(*_points(teacher), color=INK, linestyle=":", linewidth=1.4)
        axes.plot(*_points(model), color=SERIES[0], linewidth=1.2)
        for entry in _filled(model):
            # A bin of few answers says little: its marker is small.
            size = 2.0 + 5.0 * (entry["samples"] / total) ** 0.25
            axes.plot(
                entry["confidence"],
                entry["accuracy"],
                color=SERIES[0],
                marker="o",
                markersize=size,
                clip_on=False,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.set_yticks([0, 0.5, 1], ["0", "50", "100 %"])
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        error = percent_text(model["calibration"]["expected_calibration_error"])
        return svg(
            drawn,
            key,
            f"Reliability of {model['title']}: accuracy against confidence. Expected calibration "
            f"error {error}.",
        )


def _filled(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        entry
        for entry in model["calibration"]["bins"]
        if entry["confidence"] is not None and entry["accuracy"] is not None and entry["samples"]
    ]


def _points(model: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    bins = _filled(model)
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]
