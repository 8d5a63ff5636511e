"""Results of commands, brought together into the one result that a report is made of."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.cli.out_folder import FORMAT

_TITLES = {"distill": "Distillation", "compress": "Compression"}


def read_results(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return what result files hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is no result, or of a run that is not done, or nothing was measured.
    """
    found = []
    for path in paths:
        file = pathlib.Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no result file '{path}'.")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"'{path}' is no JSON file: {error}.") from None
        known = isinstance(content, dict) and (
            content.get("format") == FORMAT or isinstance(content.get("models"), list)
        )
        if not known:
            raise ValueError(
                f"'{path}' is no result of keras-kd: give result.json of measure, distill or "
                "compress, or report.json of demo."
            )
        if "models" not in content and content["result"] is None:
            raise ValueError(f"'{path}' is of a run that is not done: run that command again.")
        found.append({**content, "path": path})
    if not any("models" in content or content["command"] == "measure" for content in found):
        raise ValueError(
            "There is nothing measured to report: run `keras-kd measure ... --out FOLDER`, and "
            "give its result.json."
        )
    return found


def report_of(
    results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
    """Return the result that a report is made of, in the form of `keras_kd.report.schema.Result`.

    Args:
        results: As `read_results` gives them.
        settings: The settings of `report`.
        folder: The folder of the report, which paths of files are relative to.
    """
    from keras_kd.demo.run import _environment, _versions

    report: dict[str, Any] = {
        "title": settings["title"],
        "dataset": "",
        "classes": [],
        "command": f"keras-kd report {shlex.join(settings['results'])} --out {folder.as_posix()}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "seeds": [0],
        "environment": _environment(),
        "models": [],
        "curves": [],
        "layers": [],
        "notes": [],
        "recipe": {},
    }
    for content in results:
        if "models" in content:
            _add_report(report, content, folder)
        elif content["command"] == "measure":
            _add_measured(report, content, folder)
        else:
            _add_training(report, content)
    report["title"] = report["title"] or f"keras_kd on {report['dataset']}"
    report["seeds"] = sorted({int(s) for model in report["models"] for s in model["seeds"]})
    if report["layers"]:
        report["layers_of"] = report["models"][-1]["key"]
    else:
        del report["layers"]
    return report


def _add_report(report: dict[str, Any], content: Mapping[str, Any], folder: pathlib.Path) -> None:
    theirs = pathlib.Path(content["path"]).parent
    report["dataset"] = report["dataset"] or content["dataset"]
    report["classes"] = report["classes"] or content["classes"]
    for model in content["models"]:
        row = {**model, "key": _free_key(report, model["key"])}
        if row.get("file"):
            row["file"] = {**row["file"], "path": _relative(theirs / row["file"]["path"], folder)}
        report["models"].append(row)
    report["curves"] += content.get("curves", [])
    report["notes"] += content.get("notes", [])


def _add_measured(report: dict[str, Any], content: Mapping[str, Any], folder: pathlib.Path) -> None:
    measured, settings = content["result"], content["settings"]
    report["dataset"] = report["dataset"] or settings["data"]
    report["classes"] = report["classes"] or measured["class_names"] or []
    report["notes"].append(f"Accuracy is on {measured['data']}.")
    if measured["limits"]:
        kept = "; ".join(s for sentences in measured["not_kept"].values() for s in sentences)
        report["notes"].append(
            f"Not kept: {kept}" if kept else "Every limit of the budget is kept."
        )
    # The teacher first: it is what the others are compared with.
    files = sorted(measured["files"], key=lambda entry: entry["file"] != measured["teacher"])
    for entry in files:
        teacher = entry["file"] == measured["teacher"]
        name = pathlib.Path(entry["file"]).name
        report["models"].append(
            {
                "key": _free_key(report, "teacher" if teacher else pathlib.Path(name).stem),
                "title": f"Teacher ({name})" if teacher else name,
                "description": _description(entry, teacher),
                "parameters": entry.get("parameters", entry.get("constants")),
                "nonzero_parameters": entry.get("parameters", entry.get("constants"))
                - entry.get("zeros", entry.get("zero_constants", 0)),
                "seeds": {str(settings.get("seed", 0)): {"accuracy": entry["accuracy"]}},
                "accuracy_of": "file" if entry["kind"] == "tflite" else "keras model",
                "file": _file(entry, folder) if entry["kind"] == "tflite" else None,
            }
        )


def _description(entry: Mapping[str, Any], teacher: bool) -> str:
    if entry["kind"] == "tflite":
        return f"{entry['form'] or 'A TFLite file'}, {entry['bytes']:,} bytes."
    return "The teacher, in Keras." if teacher else "The model in Keras that files were made from."


def _file(entry: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    same = {key: value for key, value in entry.items() if key not in ("file", "kind", "form")}
    return {
        **same,
        "path": _relative(pathlib.Path(entry["file"]), folder),
        "latency_ms_median": entry["latency_ms"],
        "latency_ms_p90": entry["latency_p90_ms"],
    }


def _add_training(report: dict[str, Any], content: Mapping[str, Any]) -> None:
    command, result = content["command"], content["result"]
    seed = content["settings"].get("seed", 0)
    if command == "distill":
        report["curves"].append(_curve(_TITLES[command], command, seed, result["history"]))
    elif command == "compress":
        for stage, history in result["history"].items():
            if history:
                report["curves"].append(
                    _curve(f"{_TITLES[command]}: {stage}", stage, seed, history)
                )
        report["layers"] = [_layer(record) for record in result["layers"]]
    report["recipe"][command] = content["settings"]


def _curve(title: str, stage: str, seed: int, history: Mapping[str, list[float]]) -> dict[str, Any]:
    series = {
        key: values
        for key, values in history.items()
        if key not in ("total_loss", "val_total_loss", "epoch")
    }
    epochs = len(next(iter(series.values())))
    return {
        "title": title,
        "stage": stage,
        "seed": seed,
        "epochs": list(range(1, epochs + 1)),
        "series": series,
    }


def _layer(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": record["name"],
        "class": record["class_name"],
        "parameters": record["parameters"],
        "sparsity": record["sparsity"],
        "bits": record["bits"],
        "what": "; ".join(str(part) for part in (*record["done"], *record["not_done"])),
    }


def _free_key(report: Mapping[str, Any], key: str) -> str:
    taken = {model["key"] for model in report["models"]}
    number = 2
    free = key
    while free in taken:
        free = f"{key}_{number}"
        number += 1
    return free


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return pathlib.PurePath(os.path.relpath(path, folder)).as_posix()
