"""Several results on one page."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.report.derive import complete_result

_RUN_KEYS = ("title", "command", "created", "versions", "seeds", "environment")


def merge(results: Sequence[Mapping[str, Any]], title: str | None = None) -> dict[str, Any]:
    """Return one result with the models of several.

    A model that is in two of them, measured alike, is taken once. The first result's teacher is
    what all models are compared with; where another result's model has a key that is taken, it
    gets a number, and its title names the result that it comes from.

    Args:
        results: Results, as of `read_report`.
        title: The headline of the page. Defaults to `None`: that of the first result.

    Returns:
        A completed result whose `runs` tell what each one was.

    Raises:
        ValueError: If there are none, or if they are of different data sets or classes: their
            accuracies cannot be compared.

    Example:

    ```python
    folders = ["exports/a", "exports/b"]
    results = [kd.report.read_report(folder, relative_to="exports/both") for folder in folders]
    kd.report.write_report(kd.report.merge(results), "exports/both")
    ```
    """
    wholes = [complete_result(result) for result in results]
    if not wholes:
        raise ValueError("There are no results to merge. Give at least one.")
    for key, name in (("dataset", "data sets"), ("classes", "classes")):
        for whole in wholes[1:]:
            if whole[key] != wholes[0][key]:
                raise ValueError(
                    f"Results of different {name} cannot be compared on one page: "
                    f"'{wholes[0]['title']}' is of {_shown(wholes[0][key])}, '{whole['title']}' "
                    f"of {_shown(whole[key])}. Write a page for each."
                )
    models: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for whole in wholes:
        offset = len(runs)
        runs += whole.get("runs") or [_run(whole)]
        for model in whole["models"]:
            run = offset + model.get("run", 0)
            if not any(_same(model, other) for other in models):
                models.append(_renamed({**model, "run": run}, models, whole["title"]))
    notes = [note for whole in wholes for note in whole["notes"]]
    merged = {
        **{key: copy.deepcopy(wholes[0][key]) for key in ("dataset", "classes")},
        "title": wholes[0]["title"] if title is None else title,
        "command": "" if len(runs) > 1 else wholes[0]["command"],
        "created": max(whole["created"] for whole in wholes),
        "versions": _common([whole["versions"] for whole in wholes]),
        "seeds": sorted({seed for whole in wholes for seed in whole["seeds"]}),
        "environment": _common([whole["environment"] for whole in wholes]),
        "models": models,
        "notes": list(dict.fromkeys(notes)),
        "runs": runs,
    }
    if len({str(run["environment"]) for run in runs}) > 1:
        merged["notes"].append(
            "The runs were made on different machines: their latencies cannot be compared."
        )
    return complete_result(merged)


def _run(whole: Mapping[str, Any]) -> dict[str, Any]:
    keys = (*_RUN_KEYS, *(key for key in ("recipe", "seconds") if key in whole))
    return {key: copy.deepcopy(whole[key]) for key in keys}


def _same(model: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def measured(entry: Mapping[str, Any]) -> Any:
        file = entry["file"]
        name = file and pathlib.PurePath(file["path"]).name
        figures = file and (file["bytes"], file["latency_ms_median"])
        return entry["key"], entry["seeds"], name, figures

    return bool(measured(model) == measured(other))


def _renamed(
    model: dict[str, Any], others: Sequence[Mapping[str, Any]], title: str
) -> dict[str, Any]:
    taken = {other["key"] for other in others}
    if model["key"] not in taken:
        return model
    number = next(n for n in range(2, len(taken) + 2) if f"{model['key']}_{n}" not in taken)
    return {
        **model,
        "key": f"{model['key']}_{number}",
        "title": f"{model['title']} ({title})",
    }


def _common(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return entries by key; those that differ, joined."""
    keys = dict.fromkeys(key for entry in entries for key in entry)
    joined = {}
    for key in keys:
        values = list(dict.fromkeys(entry[key] for entry in entries if key in entry))
        joined[key] = values[0] if len(values) == 1 else " / ".join(str(value) for value in values)
    return joined


def _shown(value: Any) -> str:
    return (
        repr(value)
        if isinstance(value, str)
        else f"{len(value)} classes ({', '.join(value[:3])} ...)"
    )
