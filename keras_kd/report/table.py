"""The table of a result as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from keras_kd.report.sentences import measured_on
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
    "size ratio",
)


_SHORT = ("model", "accuracy", "points", "file", "size ratio")


def format_table(result: Mapping[str, Any], columns: Sequence[str] = _SHORT) -> str:
    """Return the table of a result as text: one row per model, columns aligned.

    Args:
        result: A dict in the form of a report. Derived keys may be absent.
        columns: The columns, in order, of `"model"`, `"parameters"`, `"not zero"`, `"file"`,
            `"zipped"`, `"accuracy"`, `"points"`, `"measured on"`, `"latency ms"` and
            `"size ratio"`. Defaults to the five that fit a terminal of 80 characters: model,
            accuracy, points, file, size ratio.

    Returns:
        Lines without a final newline. `points` is the change in accuracy against the teacher in
        percentage points; `size ratio` is the file's size as a fraction of the teacher's. An
        accuracy that is not the file's is marked `(Keras model)` unless there is a column
        `"measured on"`.

    Raises:
        ValueError: If keys are missing, or a column does not exist.

    Example:

    ```python
    print(keras_kd.report.format_table(result, ["model", "zipped", "latency ms"]))
    ```
    """
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        raise ValueError(
            f"`columns` has names that are not columns. Received: {unknown}. There are: "
            f"{', '.join(COLUMNS)}."
        )
    mark = "measured on" not in columns
    rows = [
        [row[column] for column in columns]
        for row in (_row(model, mark) for model in complete_result(result)["models"])
    ]
    return text_table([list(columns), *rows])


def _row(model: Mapping[str, Any], mark: bool) -> dict[str, str]:
    """Return the text of every column; `mark`: say where an accuracy is not the file's."""
    file = model["file"] or {}
    measured = measured_on(model)
    accuracy = accuracy_text(model["accuracy"]["mean"], model["accuracy"]["std"])
    values = (
        model["title"],
        count_text(model["parameters"]),
        count_text(model["nonzero_parameters"]),
        bytes_text(file.get("bytes")),
        bytes_text(file.get("zipped_bytes")),
        f"{accuracy} (Keras model)" if mark and measured == "Keras model" else accuracy,
        change_text(model["accuracy_drop_points"]),
        measured,
        milliseconds_text(file.get("latency_ms")),
        ratio_text(model["ratio_to_teacher"]["bytes"]),
    )
    return dict(zip(COLUMNS, values, strict=True))
