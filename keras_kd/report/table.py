"""The one table of a result, as rows of text and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_kd.report.derive import complete_result
from keras_kd.report.numbers import (
    accuracy_text,
    bytes_text,
    change_text,
    count_text,
    milliseconds_text,
    ratio_text,
)
from keras_kd.system.text_table import text_table

COLUMNS = (
    "model",
    "parameters",
    "not zero",
    "file",
    "zipped",
    "accuracy",
    "points",
    "measured on",
    "latency ms",
    "bytes vs teacher",
)


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of text a model, in the order of `COLUMNS`.

    Args:
        result: A result that `complete_result` has completed.
    """
    rows: list[tuple[str, ...]] = []
    for model in result["models"]:
        file = model["file"] or {}
        rows.append(
            (
                model["title"],
                count_text(model["parameters"]),
                count_text(model["nonzero_parameters"]),
                bytes_text(file.get("bytes")),
                bytes_text(file.get("zipped_bytes")),
                accuracy_text(model["accuracy"]["mean"], model["accuracy"]["std"]),
                change_text(model["accuracy_drop_points"]),
                "file" if model["accuracy_of"] == "file" else "Keras model",
                milliseconds_text(file.get("latency_ms")),
                ratio_text(model["ratio_to_teacher"]["bytes"]),
            )
        )
    return rows


def format_table(result: Mapping[str, Any]) -> str:
    """Return the table of a result as text: a row a model, columns aligned.

    Args:
        result: A dict in the form of a report. Derived keys may be absent.

    Returns:
        Lines without a final newline. `points` is the change in accuracy against the teacher in
        percentage points; `bytes vs teacher` divides the sizes of the files.

    Raises:
        ValueError: If keys are missing.
    """
    return text_table([COLUMNS, *table_rows(complete_result(result))])
