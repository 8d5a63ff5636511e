"""The Markdown model card of a result."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_kd.report import markdown
from keras_kd.report.classes import class_name
from keras_kd.report.derive import complete_result
from keras_kd.report.page import at_export_text, environment
from keras_kd.report.plots.reliability_plot import calibrated, without_calibration
from keras_kd.report.sentences import over_seeds, samples_name, several_seeds
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.names import one_of


def model_card(
    result: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write a model card: the facts of a report in Markdown (Mitchell et al. 2019, 1810.03993).

    What only its author can know stands as `TODO` in it: intended use, data, limits, license.

    Args:
        result: A dict in the form of a report. Derived keys may be absent.
        path: The Markdown file.
        model: The key of the model that the card describes; its table has the others too. Defaults
            to `None`: the shipped one, else all students.
        overwrite: Whether to replace an existing file, including edits made in it. Defaults to
            `False`.

    Returns:
        The path.

    Raises:
        FileExistsError: If there is a file at `path`, unless `overwrite`.
        ValueError: If `result` is incomplete or has no such model.
        OSError: If the file cannot be written.

    Example:

    ```python
    kd.report.model_card(kd.report.read_report("exports/digits"), "MODEL_CARD.md", model="int8")
    ```
    """
    full = complete_result(result)
    model = full.get("shipped") if model is None else model
    students = [entry for entry in full["models"] if entry["key"] != "teacher"]
    if model is None:
        shown = students or full["models"]
    else:
        shown = [entry for entry in full["models"] if entry["key"] == model]
        if not shown:
            one_of("model", model, [entry["key"] for entry in full["models"]])
    target = check_writable(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"'{target}' exists, and edits made in it would be lost. "
            "Pass another path, or `overwrite=True`."
        )
    text = render_card(full, shown)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def render_card(result: dict[str, Any], shown: list[dict[str, Any]]) -> str:
    """Return the model card as text.

    Args:
        result: A result that `complete_result` has completed.
        shown: The models of it that the card is about.
    """
    teacher = next((entry for entry in result["models"] if entry["key"] == "teacher"), None)
    beside = [teacher] if teacher is not None and teacher not in shown else []
    text = (
        environment(markdown.finalized)
        .get_template("model_card.md")
        .render(
            result=result,
            shown=shown,
            title=f"{shown[0]['title']}: {result['title']}" if len(shown) == 1 else result["title"],
            models=result["models"],
            by_class=_by_class(result, [*beside, *shown]),
            layered=[model for model in shown if model["layers"]],
            calibrated=calibrated([*beside, *shown]),
            without_calibration=without_calibration([*beside, *shown]),
            runs=result.get("runs") or [result],
            over_seeds=" ".join(over_seeds(result["models"])),
            several_seeds=several_seeds(result["models"]),
            samples=samples_name(result),
            cell=markdown.cell,
            code=markdown.code,
            at_export=at_export_text,
        )
    )
    return text.strip() + "\n"


def _by_class(result: dict[str, Any], models: list[dict[str, Any]]) -> dict[str, Any] | None:
    models = [model for model in models if model.get("per_class")]
    if not models:
        return None
    labels = list(dict.fromkeys(entry["label"] for m in models for entry in m["per_class"]))
    found = [{entry["label"]: entry for entry in model["per_class"]} for model in models]
    return {
        "titles": [model["title"] for model in models],
        "rows": [
            (class_name(label, result["classes"]), [entries.get(label) for entries in found])
            for label in labels
        ],
    }
