"""Classes on the page: how each is answered, and what is taken for what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Beyond so many classes, the table holds those that changed most, and matrices the worst pairs.
MOST_ROWS = 40
MOST_MATRIX = 24
_PAIRS = 20


def class_name(label: Any, classes: list[str]) -> str:
    """Return the name of a class by its label: an index, or the name itself."""
    if isinstance(label, int) and 0 <= label < len(classes):
        return classes[label]
    return str(label)


def class_rows(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of classes: one row per class, one cell per model.

    Args:
        result: A completed result.

    Returns:
        `rows` (name, samples, one entry or `None` a model), `left_out`: how many classes are not
        among them, and `compared`: whether there is a teacher; `None` if nothing was measured by
        class.
    """
    models = [model for model in result["models"] if model.get("per_class")]
    if not models:
        return None
    by_model = [{entry["label"]: entry for entry in model["per_class"]} for model in models]
    labels = list(dict.fromkeys(label for entries in by_model for label in entries))
    changes = {
        label: max(abs(e[label].get("change_points") or 0.0) for e in by_model if label in e)
        for label in labels
    }
    kept = sorted(labels, key=lambda label: -changes[label])[:MOST_ROWS]
    rows = []
    for label in labels:
        if label in kept:
            entries = [by_label.get(label) for by_label in by_model]
            samples = next(entry["samples"] for entry in entries if entry is not None)
            name = class_name(label, result["classes"])
            rows.append({"name": name, "samples": samples, "entries": entries})
    return {
        "rows": rows,
        "left_out": len(labels) - len(rows),
        "compared": any(model["key"] == "teacher" for model in models),
    }


def confusion_tables(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the confusion matrices, one per model; of many classes, the pairs confused most.

    Args:
        result: A completed result.
    """
    models = [model for model in result["models"] if model.get("confusion")]
    teacher = next((model["confusion"] for model in models if model["key"] == "teacher"), None)
    tables = []
    for model in models:
        matrix = model["confusion"]
        names = [class_name(i, result["classes"]) for i in range(len(matrix))]
        theirs = None if model["key"] == "teacher" else teacher
        if theirs is not None and len(theirs) != len(matrix):
            theirs = None
        whole = len(matrix) <= MOST_MATRIX
        tables.append(
            {
                "title": model["title"],
                "names": names,
                "compared": theirs is not None,
                "rows": _rows(matrix, theirs, names) if whole else None,
                "pairs": None if whole else _pairs(matrix, theirs, names),
            }
        )
    return tables


def _rows(
    matrix: list[list[int]], teacher: list[list[int]] | None, names: list[str]
) -> list[dict[str, Any]]:
    rows = []
    for i, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = [
            {
                "count": count,
                "change": None if teacher is None else count - teacher[i][j],
                # The root lets small shares be seen.
                "shade": round(0.55 * math.sqrt(count / total), 2),
                "right": i == j,
            }
            for j, count in enumerate(counts)
        ]
        rows.append({"name": names[i], "cells": cells})
    return rows


def _pairs(
    matrix: list[list[int]], teacher: list[list[int]] | None, names: list[str]
) -> list[dict[str, Any]]:
    wrong = [
        (count, i, j)
        for i, counts in enumerate(matrix)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    return [
        {
            "label": names[i],
            "answer": names[j],
            "count": count,
            "samples": sum(matrix[i]),
            "change": None if teacher is None else count - teacher[i][j],
        }
        for count, i, j in sorted(wrong, key=lambda entry: (-entry[0], entry[1:]))[:_PAIRS]
    ]
