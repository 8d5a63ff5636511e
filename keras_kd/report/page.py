"""The HTML page of a result: one file that asks for nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keras_kd.report import numbers
from keras_kd.report.classes import class_rows, confusion_tables
from keras_kd.report.pareto import cost_of, drawable, merit_of
from keras_kd.report.plots.curve_plots import training_curves
from keras_kd.report.plots.front_plot import draw_front, letters
from keras_kd.report.plots.reliability_plot import reliability_diagrams, without_calibration
from keras_kd.report.sentences import lead, measured_on, over_seeds, samples_name

_FRONT_TITLES = {
    "zipped_bytes": "against the zipped size",
    "bytes": "against the size of the file",
    "latency_ms": "against latency",
}


def environment(finalize: Any = None) -> Any:
    """Return the jinja2 environment of the page and of the card, with their number formats.

    Args:
        finalize: What a template writes for a value. Defaults to `None`: HTML's escapes alone.
    """
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_kd.report"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    found.filters.update(
        accuracy=lambda accuracy: numbers.accuracy_text(accuracy["mean"], accuracy["std"]),
        bytes=numbers.bytes_text,
        change=numbers.change_text,
        signed=numbers.signed_points_text,
        count=numbers.count_text,
        unbroken=lambda text: re.sub(r"(?<=\d) (?=%|[kMG]?B\b|ms\b|points?\b)", "\u00a0", text),
        metric=numbers.metric_text,
        ms=numbers.milliseconds_text,
        measured_on=measured_on,
        percent=numbers.percent_text,
        ratio=numbers.ratio_text,
        setting=numbers.setting_text,
        combined=lambda first, second: {**first, **second},
    )
    return found


def render_page(result: dict[str, Any]) -> str:
    """Return the HTML page of a result.

    Args:
        result: A result that `complete_result` has completed.

    Returns:
        A whole HTML document. The same result gives the same text.
    """
    models = result["models"]
    files = [model for model in models if model["file"] is not None]
    metrics = list(dict.fromkeys(name for model in models for name in model.get("metrics") or ()))
    text = (
        environment()
        .get_template("report.html")
        .render(
            result=result,
            models=models,
            lead=lead(result),
            files=files,
            letters=letters(models),
            metrics=metrics,
            judged=not metrics or any(model["accuracy"]["mean"] is not None for model in models),
            operators=sorted({name for model in files for name in model["file"]["operators"]}),
            fronts=_fronts(result),
            curves=training_curves(models),
            staged=[model for model in models if model["stages"]],
            classes=class_rows(result),
            class_models=[model for model in models if model.get("per_class")],
            confusions=confusion_tables(result),
            diagrams=reliability_diagrams(models),
            without_calibration=without_calibration(models),
            over_seeds=" ".join(over_seeds(models)),
            samples=samples_name(result),
            bars="chosen_by" not in result and any(model["accuracy"]["std"] for model in models),
            layered=[_layers(model) for model in models if model["layers"]],
            details=_file_details(files),
            devices=_devices(models),
            runs=result.get("runs") or [result],
        )
    )
    return text.strip() + "\n"


def _fronts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the plot of each cost, and in words which models are on its front."""
    found, by = [], result.get("chosen_by")
    for cost, title in _FRONT_TITLES.items():
        svg = draw_front(cost, result["models"], by)
        if svg is None:
            continue
        shown = drawable(result["models"], cost, by)
        keys = result["pareto_fronts"][cost]
        described = {model["key"]: _described(model, cost, by) for model in shown}
        found.append(
            {
                "title": f"{'Accuracy' if by is None else by['metric']} {title}",
                "svg": svg,
                "on": [(key, described[key]) for key in keys],
                "off": [(key, text) for key, text in described.items() if key not in keys],
            }
        )
    return found


def _described(model: Mapping[str, Any], cost: str, by: Mapping[str, str] | None) -> str:
    value = cost_of(model, cost)
    text = f"{numbers.milliseconds_text(value)} ms" if cost == "latency_ms" else (
        numbers.bytes_text(value)
    )  # fmt: skip
    merit = merit_of(model, by)
    shown = (
        numbers.percent_text(merit, 2)
        if by is None
        else f"{by['metric']} {numbers.metric_text(merit)}"
    )
    return f"{model['title']} ({shown}, {text})"


def _layers(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's layers for its table: those with weights or notes, and the rest."""
    told = [
        layer
        for layer in model["layers"]
        if layer["parameters"] or layer["bytes"] or layer["done"] or layer["not_done"]
    ]
    largest = max((layer["bytes"] or 0 for layer in told), default=0)
    return {
        "key": model["key"],
        "title": model["title"],
        "layers": told,
        "silent": [layer["name"] for layer in model["layers"] if layer not in told],
        "largest": largest,
        "sized": largest > 0,
        "other": model.get("other_bytes"),
        "file_bytes": None if model["file"] is None else model["file"]["bytes"],
    }


def _file_details(files: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return further measurements of the files: one row per figure, one cell per file."""
    formats: list[tuple[str, str, Any]] = [
        ("latency, 99th percentile, ms", "latency_p99_ms", numbers.milliseconds_text),
        ("latency without XNNPACK, ms", "latency_without_xnnpack_ms", numbers.milliseconds_text),
        ("threads", "threads", str),
        ("delegate", "delegate", str),
        ("peak memory", "peak_memory_bytes", numbers.bytes_text),
        ("loads with XNNPACK", "loads_with_xnnpack", lambda value: "yes" if value else "no"),
        ("multiply-accumulates", "macs", numbers.count_text),
        ("values stored", "constants", numbers.count_text),
        ("zeros among them", "zero_constants", numbers.count_text),
        ("stored as", "constant_types", _types_text),
        ("operators in float", "float_operators", lambda value: str(sum(value.values()))),
        ("largest difference from its Keras model", "max_difference", lambda value: f"{value:.2g}"),
        ("measured at export", "at_export", at_export_text),
    ]
    rows = []
    for title, key, text in formats:
        values = [model["file"].get(key) for model in files]
        if any(value is not None for value in values):
            rows.append((title, [numbers.ABSENT if v is None else text(v) for v in values]))
    return rows


def at_export_text(found: Mapping[str, Any]) -> str:
    """Return what an export measured of its file.

    Args:
        found: The `at_export` of a file.
    """
    parts = []
    if found["agreement"] is not None:
        parts.append(f"{numbers.percent_text(found['agreement'])} of its model's answers")
    if found["signal_to_noise_db"] is not None:
        parts.append(f"{found['signal_to_noise_db']:.1f} dB")
    samples = f"{found['samples']} sample{'s' * (found['samples'] != 1)}"
    kept = f"{samples}, held out" if found["held_out"] else f"the {samples} of its calibration"
    by = found["calibration"]
    ranges = "" if by is None else ", trained ranges" if by == "trained" else f", {by} ranges"
    return f"{', '.join(parts) or 'no difference'} on {kept}{ranges}"


def _devices(models: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the rows of the table of devices, those of one device together."""
    rows = [
        {
            "device": told["device"],
            "key": model["key"],
            "title": model["title"],
            "by": told["by"],
            "ms": numbers.milliseconds_text(told["latency_ms"]),
            "operators": ", ".join(f"{name} {count}" for name, count in told["operators"].items()),
            "memory": ", ".join(
                f"{numbers.bytes_text(size)} {name}" for name, size in told["memory"].items()
            ),
        }
        for model in models
        for told in model.get("devices") or ()
    ]
    return sorted(rows, key=lambda row: row["device"])


def _types_text(types: dict[str, int]) -> str:
    total = sum(types.values()) or 1
    return ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in types.items())
