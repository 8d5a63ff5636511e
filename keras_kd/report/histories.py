"""Training histories and compression stages in the form of a result."""

from __future__ import annotations

import dataclasses
import numbers
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.report.schema import with_current_names
from keras_kd.system.json_values import plain
from keras_kd.system.reading import read_json
from keras_kd.system.user_warning import warn_user


def curves_of(title: str, history: Any) -> list[dict[str, Any]]:
    """Return histories in the form of a report's curves.

    Args:
        title: The title of a history that brings none.
        history: A `keras.callbacks.History`, a dict of lists, or a dict of histories by title or
            by seed. `None` gives no curve.

    Raises:
        TypeError: If it is of another type.
    """
    return [] if history is None else _curves(title, history, None)


def _curves(title: str, history: Any, seed: int | None) -> list[dict[str, Any]]:
    series = getattr(history, "history", history)
    if not isinstance(series, Mapping):
        raise TypeError(
            "`history` must be what `fit` returned, a dict of lists, or a dict of them by title "
            f"or by seed. Received: {type(history).__name__}."
        )
    if series and all(isinstance(value, Mapping) or hasattr(value, "history")
                      for value in series.values()):  # fmt: skip
        found = []
        for name, entry in series.items():
            if isinstance(name, numbers.Integral):
                found += _curves(title, entry, int(name))
            else:
                found += _curves(str(name), entry, seed)
        return found
    lists = {
        str(key): [None if value is None else float(value) for value in values]
        for key, values in series.items()
        if isinstance(values, (list, tuple))
        and key != "epoch"
        and not any(isinstance(v, list) or getattr(v, "ndim", 0) for v in values)
    }
    count = max((len(values) for values in lists.values()), default=0)
    if not count:
        return []
    known = getattr(history, "epoch", series.get("epoch"))
    epochs = list(range(1, count + 1))
    if isinstance(known, Sequence) and len(known) == count:
        epochs = [int(number) + 1 for number in known]
    placed = {name: at_epochs(values, epochs) for name, values in lists.items()}
    for name in (name for name, values in placed.items() if values is None):
        warn_user(
            f"'{name}' of '{title}' has no curve. Received: {len(lists[name])} values for {count} "
            "epochs, so their epochs are unknown. Put None where there is no value."
        )
    shown = {name: values for name, values in placed.items() if values is not None}
    return [{"title": title, "seed": seed, "epochs": epochs, "series": shown}]


def at_epochs(values: Sequence[float | None], epochs: Sequence[int]) -> list[float | None] | None:
    """Return a value for each epoch, `None` where there is none.

    Args:
        values: One for each epoch, or for every second, third, ... (`fit(validation_freq=2)`).
        epochs: The epochs, counted from 1.

    Returns:
        The values, or `None` if their epochs are not known.
    """
    count, given = len(epochs), len(values)
    if given == count:
        return list(values)
    every = [k for k in range(2, count + 1) if sum(e % k == 0 for e in epochs) == given]
    if given and count % given == 0 and count // given in every:
        every = [count // given]
    if len(every) != 1:
        return None
    left = iter(values)
    return [next(left) if epoch % every[0] == 0 else None for epoch in epochs]


def stages_of(compressed: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the stages of a compression, and the histories of their training.

    Args:
        compressed: What `kd.compress` returned, or the folder that was its `path`.

    Returns:
        Lists in the form of a report's stages and curves.

    Raises:
        ValueError: If the folder holds no run of `kd.compress`.
    """
    if isinstance(compressed, (str, os.PathLike)):
        records, histories = _read_run(pathlib.Path(compressed))
    elif hasattr(compressed, "stages") and hasattr(compressed, "history"):
        records = [dataclasses.asdict(record) for record in compressed.stages]
        histories = compressed.history
    else:
        raise TypeError(
            "`compressed` must be what `kd.compress` returned, or the folder that was its `path`. "
            f"Received: {type(compressed).__name__}."
        )
    curves = []
    for name, history in histories.items():
        for curve in _curves(_title(name, records), history, None):
            curves.append({**curve, "stage": name})
    keys = (
        "name", "stage", "outcome", "epochs", "metrics", "metric", "drop", "parameters",
        "nonzero_parameters", "sparsity", "seconds",
    )  # fmt: skip
    stages = [
        {**{key: record[key] for key in keys}, "config": plain(record["config"], otherwise=str)}
        for record in map(with_current_names, records)
    ]
    return stages, curves


def _title(name: str, records: list[dict[str, Any]]) -> str:
    stage = next((record["stage"] for record in records if record["name"] == name), "")
    return f"Stage {name}" if not stage or stage.lower() == name.replace("_", "") else (
        f"Stage {name} ({stage})"
    )  # fmt: skip


def _read_run(folder: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    file = folder / "run.json"
    try:
        content = read_json(file)
        before = [content["before"]] if content["before"] else []
        records = before + [stage["record"] for stage in content["stages"]]
        histories = {stage["record"]["name"]: stage["history"] for stage in content["stages"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{folder}' holds no run of `kd.compress` (no complete run.json). Pass the folder "
            "that was its `path`, or what it returned."
        ) from error
    return records, histories
