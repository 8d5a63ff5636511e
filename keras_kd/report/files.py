"""Reports in files: written, read back, and several on one page."""

from __future__ import annotations

import copy
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.report.derive import complete_result
from keras_kd.report.page import render_page
from keras_kd.report.schema import READABLE_VERSIONS, SCHEMA_VERSION
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.reading import read_json

_RUN_KEYS = ("title", "command", "created", "versions", "seeds", "environment")


def write_report(
    result: Mapping[str, Any], folder: str | os.PathLike[str]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the page and the JSON file of a result into `folder`.

    Both files hold the same numbers. The page is one self-contained file: it asks for nothing
    over the network. Killed while writing, neither name holds half a file.

    Args:
        result: A dict in the form of a report. Derived keys may be absent.
            The path of a `.tflite` file is relative to `folder`, or, where no such file is there,
            to the working directory.
        folder: Where `report.html` and `report.json` go. It is created if it is missing.

    Returns:
        The paths of the HTML page and of the JSON file.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys of `result` are missing.
        OSError: If the files cannot be written.

    Example:

    ```python
    page, numbers = kd.report.write_report(result, "exports/digits")
    ```
    """
    full = complete_result(result)
    _tell_paths_from(full, pathlib.Path(folder))
    page = check_writable(pathlib.Path(folder) / "report.html")
    numbers = check_writable(pathlib.Path(folder) / "report.json")
    html = render_page(full)
    text = json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for path, content in ((page, html), (numbers, text)):
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return page, numbers


def _tell_paths_from(result: dict[str, Any], folder: pathlib.Path) -> None:
    """Make the paths of the files relative to the report's folder."""
    for model in result["models"]:
        if model["file"] is None:
            continue
        path = pathlib.Path(model["file"]["path"])
        if path.is_absolute() or (path.is_file() and not (folder / path).is_file()):
            path = pathlib.Path(os.path.relpath(path, folder))
        model["file"]["path"] = path.as_posix()


def read_report(
    path: str | os.PathLike[str], relative_to: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Read the `report.json` that `write_report` wrote.

    Args:
        path: The JSON file, or the folder that it is in.
        relative_to: The folder from which the paths of the `.tflite` files are to be told, as that
            of a new report. Defaults to `None`: they stay relative to the JSON file's.

    Returns:
        The completed result, in the form of a report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a report, or of a version that is not read.

    Example:

    ```python
    result = kd.report.read_report("exports/digits")
    print(kd.report.format_table(result))
    ```
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "report.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no report '{file}'. Pass the report.json that `write_report` wrote, or its "
            "folder."
        )
    try:
        content = read_json(file)
    except ValueError as error:
        raise ValueError(f"'{file}' is not a report. {error}") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ValueError(f"'{file}' is not a report of keras_kd: it has no 'schema_version'.")
    found = content["schema_version"]
    if found not in READABLE_VERSIONS:
        raise ValueError(
            f"'{file}' is of schema version {found!r}, and this version of keras_kd reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}. "
            f"{_way_out(found, content.get('command'))}"
        )
    try:
        result = complete_result(content)
    except ValueError as error:
        raise ValueError(f"'{file}' is damaged. {error}") from None
    if relative_to is not None:
        for model in result["models"]:
            if model["file"] is not None:
                there = os.path.join(file.parent, model["file"]["path"])
                model["file"]["path"] = pathlib.PurePath(
                    os.path.relpath(there, relative_to)
                ).as_posix()
    return result


def _way_out(found: Any, command: Any) -> str:
    if isinstance(found, int) and found > SCHEMA_VERSION:
        return "Use a newer version of keras_kd."
    again = f": {command}" if isinstance(command, str) and command else "."
    return f"Make it again by the command that it was made with{again}"


def merge(results: Sequence[Mapping[str, Any]], title: str | None = None) -> dict[str, Any]:
    """Return one result with the models of several.

    A model that is in two of them, measured alike, is taken once. The first result's teacher is
    what all models are compared with; where another result's model has a key that is taken, it
    gets a number, and its title names the result that it comes from. Titles that are still equal
    get the part of their file's path that differs.

    Args:
        results: Results, as of `read_report`.
        title: The headline of the page. Defaults to `None`: that of the first result.

    Returns:
        A completed result whose `runs` tell what each one was.

    Raises:
        ValueError: If there are none, or if they are of different datasets or classes, or of
            different numbers of samples of a dataset without a name: their accuracies cannot be
            compared.

    Example:

    ```python
    folders = ["exports/a", "exports/b"]
    results = [kd.report.read_report(folder, relative_to="exports/both") for folder in folders]
    kd.report.write_report(kd.report.merge(results), "exports/both")
    ```
    """
    wholes = [complete_result(result) for result in results]
    if not wholes:
        raise ValueError("There are no results to merge. Pass at least one.")
    for key, name in (("dataset", "datasets"), ("classes", "classes")):
        for whole in wholes[1:]:
            if whole[key] != wholes[0][key]:
                raise ValueError(
                    f"Results of different {name} cannot be compared on one page: "
                    f"'{wholes[0]['title']}' is of {_shown(wholes[0][key])}, '{whole['title']}' "
                    f"of {_shown(whole[key])}. Write a page for each."
                )
    several = wholes if len(wholes) > 1 else []
    counts = {model.get("samples") for whole in several for model in whole["models"]} - {None}
    if len(counts) > 1 and not wholes[0]["dataset"]:
        raise ValueError(
            "Results of different numbers of samples, without the name of a dataset, cannot be "
            f"compared on one page. Received: {sorted(counts)} samples. Pass `dataset=` to "
            "`make_result`, or write a page for each."
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
    _tell_apart(models)
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
    by = wholes[0].get("chosen_by")
    if by is not None and all(whole.get("chosen_by") == by for whole in wholes):
        merged["chosen_by"] = by
    if len(counts) > 1:
        shown = " and ".join(f"{count:,}" for count in sorted(counts))
        merged["notes"].append(
            f"The models were measured on {shown} samples: compare their accuracies with care."
        )
    parts = dict.fromkeys(whole["part"] for whole in wholes if whole.get("part"))
    if len(parts) > 1:
        merged["notes"].append(
            f"The models were measured on different parts of the data ({', '.join(parts)}): "
            "compare their accuracies with care."
        )
    elif parts and all("part" in whole for whole in wholes):
        merged["part"] = next(iter(parts))
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
        figures = file and (file["bytes"], file["latency_ms"])
        # Without a file, two models may well have the same accuracy.
        texts = (entry["title"], entry["description"]) if file is None else None
        return entry["key"], entry["seeds"], entry["parameters"], name, figures, texts

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


def _tell_apart(models: Sequence[dict[str, Any]]) -> None:
    """Give models of equal titles the end of their file's path that differs, else a number."""
    for title in {model["title"] for model in models}:
        same = [model for model in models if model["title"] == title]
        if len(same) == 1:
            continue
        ends = _differing_ends([(model["file"] or {}).get("path", "") for model in same])
        for number, (model, end) in enumerate(zip(same, ends, strict=True), 1):
            named = pathlib.PurePath(end).name == title
            model["title"] = end if named else f"{title} ({end or number})"


def _differing_ends(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that all differ, `""` for each where they do not."""
    parts = [pathlib.PurePath(path).parts for path in paths]
    for length in range(1, 1 + max(map(len, parts))):
        ends = [part[-length:] for part in parts]
        if len(set(ends)) == len(ends):
            return ["/".join(end) for end in ends]
    return [""] * len(paths)


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
