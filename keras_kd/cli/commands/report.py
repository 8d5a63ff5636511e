"""`keras-kd report`: results of other commands as one page."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from keras_kd.cli.command import Command, Option
from keras_kd.cli.console import Console, Outcome
from keras_kd.cli.out_folder import FORMAT, OutFolder
from keras_kd.cli.shared_options import out_option
from keras_kd.system.reading import read_json

_SEVERAL = {"dataset": "datasets", "part": "parts of the data (--part)", "classes": "classes"}
_TITLES = {"distill": "Distillation", "compress": "Compression"}

COMMAND = Command(
    "report",
    short_help="one HTML page, one JSON and one model card of what was measured",
    help="""\
Make one self-contained HTML page, one JSON file and one Markdown model card of the results of
`measure`, and the training curves of `distill` and `compress` if their results are given too. A
model that was trained and not measured has a row without an accuracy. Results of `keras-kd demo`
(report.json) can be added. All measurements must be of one dataset.""",
    example="""\
  keras-kd measure runs/export/*.tflite --teacher big.keras --data pictures --part validation \\
                   --out runs/measure
  keras-kd report runs/measure/result.json runs/distill/result.json --out runs/report""",
    params=(
        click.Argument(["results"], nargs=-1, required=True, metavar="RESULT...",
                       help="result.json of measure, distill, compress; report.json of demo"),
        Option("title", "the title of the page"),
        out_option("runs/report"),
    ),
)  # fmt: skip


@COMMAND.does
def run(settings: dict[str, Any], console: Console) -> Outcome:
    """Write the page."""
    from keras_kd.report import format_table, model_card, write_report

    results = _read_results(settings["results"])
    folder = OutFolder(COMMAND, settings, settings["results"])
    if (done := folder.done(console)) is not None:
        return Outcome(done, _text(done))
    report = _report_of(results, settings, folder.path)
    with folder.begun():
        page, numbers = write_report(report, folder.path)
        card = model_card(report, folder.path / "model_card.md", overwrite=True)
        result = folder.finish(
            {
                "page": page.as_posix(),
                "json": numbers.as_posix(),
                "card": card.as_posix(),
                "table": format_table(report),
            }
        )
    return Outcome(result, _text(result))


def _text(result: dict[str, Any]) -> str:
    card = f", card: {result['card']}" if "card" in result else ""
    return f"{result['table']}\nPage: {result['page']}{card}"


def _read_results(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return what result files hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is not a result, belongs to an unfinished run, or nothing was measured.
    """
    from keras_kd.report import read_report

    found = []
    for path in paths:
        file = pathlib.Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no result file '{path}'.")
        try:
            content = read_json(file)
        except ValueError as error:
            raise ValueError(f"'{path}' is not a JSON file: {error}") from None
        if isinstance(content, dict) and "schema_version" in content:
            found.append({**read_report(file), "path": path})
            continue
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(
                f"'{path}' is not a result of keras-kd: give result.json of measure, distill or "
                "compress, or report.json of demo."
            )
        if content["result"] is None:
            raise ValueError(f"'{path}' belongs to an unfinished run: rerun that command.")
        found.append({**content, "path": path})
    if not any("models" in content or content["command"] == "measure" for content in found):
        raise ValueError(
            "There are no measurements to report: run `keras-kd measure ... --out FOLDER` and "
            "give its result.json."
        )
    return found


def _report_of(
    results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
    """Return the result that a report is made of, in the form of a report.

    Args:
        results: As `_read_results` gives them.
        settings: The settings of `report`.
        folder: The folder of the report, which paths of files are relative to.
    """
    from keras_kd.report import make_result, merge

    words = ["keras-kd", "report", *settings["results"], "--out", folder.as_posix()]
    words += [] if settings["title"] is None else ["--title", settings["title"]]
    command = shlex.join(words)
    reports = [_moved(content, folder) for content in results if "models" in content]
    own: dict[str, Any] = {"models": [], "rows": {}, "notes": []}
    own |= {"dataset": "", "part": "", "samples": "", "classes": []}
    recipe: dict[str, Any] = {}
    for content in results:
        if "models" not in content:
            name = content["command"]
            earlier = sum(key.split(" ")[0] == name for key in recipe)
            recipe[f"{name} {earlier + 1}" if earlier else name] = content["settings"]
            if content["command"] == "measure":
                _add_measured(own, content, folder)
    trainings = [c for c in results if "models" not in c and c["command"] in _TITLES]
    for content in trainings if own["models"] else ():
        _add_training(_trained_row(own, content, trainings), content)
    title = settings["title"]
    if own["models"]:
        theirs = next(iter(reports), own)
        if not own["dataset"] or (own["classes"] and own["classes"] == theirs["classes"]):
            # The same data may be named by a path here: a report's own name is better.
            own |= {"dataset": theirs["dataset"] or own["dataset"], "classes": theirs["classes"]}
        reports.append(
            make_result(
                title or f"keras_kd on {own['dataset']}",
                own["models"],
                dataset=own["dataset"],
                classes=own["classes"],
                part=own["samples"],
                command=command,
                recipe=recipe,
                notes=own["notes"],
            )
        )
    return merge(reports, title)


def _moved(content: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Return a report with its files told from another folder."""
    theirs = pathlib.Path(content["path"]).parent
    models = []
    for model in content["models"]:
        file = model["file"]
        if file is not None:
            file = {**file, "path": _relative(theirs / file["path"], folder)}
        models.append({**model, "file": file})
    return {**{key: value for key, value in content.items() if key != "path"}, "models": models}


def _add_measured(own: dict[str, Any], content: Mapping[str, Any], folder: pathlib.Path) -> None:
    from keras_kd.cli.task_data import measured_on
    from keras_kd.report import model_result

    measured, settings = content["result"], content["settings"]
    dataset, split, part = measured_on(settings)
    own["samples"] = {"all": ""}.get(settings.get("part"), settings.get("part") or split)
    known = own["dataset"]
    if known and dataset and os.path.realpath(dataset) == os.path.realpath(known):
        dataset = known  # one path, written in two ways
    if dataset and part is None:
        named = ":" not in dataset and not os.path.exists(dataset)
        part = f"the split {split}" if named else "all"
    elif part is not None:
        split, seed = settings.get("validation_split", 0.1), settings.get("seed", 0)
        part += f", --validation-split {split:g} --seed {seed}"
    for key, given in (
        ("dataset", dataset), ("part", part), ("classes", measured["class_names"]),
    ):  # fmt: skip
        if not given:
            continue
        if own[key] and own[key] != given:
            raise ValueError(
                f"Measurements of different {_SEVERAL[key]} cannot be compared on one page. "
                f"Received: {given} in '{content['path']}', after {own[key]}. Write a page for "
                "each."
            )
        own[key] = given
    own["notes"].append(f"Accuracy is on {measured['data']}.")
    for entry in measured["files"]:
        if seen := entry.get("trained_on"):
            own["notes"].append(f"'{entry['file']}' was trained on {seen:,} of these examples.")
    if measured["limits"]:
        kept = "; ".join(s for sentences in measured["not_kept"].values() for s in sentences)
        own["notes"].append(f"Not kept: {kept}" if kept else "Every limit of the budget is kept.")
    seed = int(settings.get("seed", 0))
    # The teacher first: it is what the others are compared with.
    files = sorted(measured["files"], key=lambda entry: entry["file"] != measured["teacher"])
    for entry in files:
        teacher = entry["file"] == measured["teacher"]
        file = entry.get("tflite") or (entry if entry["kind"] == "tflite" else None)
        name = pathlib.Path(entry["file"]).name
        zeros = entry.get("zeros", entry.get("zero_constants", 0))
        row = model_result(
            _free_key(own["models"], "teacher" if teacher else pathlib.Path(name).stem),
            f"Teacher ({name})" if teacher else name,
            file_result=None
            if file is None
            else {seed: {**file, "path": _relative(pathlib.Path(file["path"]), folder)}},
            description=_description(entry, teacher),
            accuracy={seed: entry["accuracy"]} if file is None else None,
            parameters=entry["parameters"],
            nonzero_parameters=entry["parameters"] - zeros,
        )
        if file is None:
            row["samples"] = entry["samples"]
        own["models"].append(row)
        own["rows"].setdefault(os.path.realpath(entry["file"]), row)


def _description(entry: Mapping[str, Any], teacher: bool) -> str:
    if entry["kind"] == "tflite":
        return f"{entry['form'] or 'A TFLite file'}, {entry['bytes']:,} bytes."
    if entry.get("tflite"):
        return f"The teacher as a float32 file, {entry['tflite']['bytes']:,} bytes."
    return "The teacher, in Keras." if teacher else "The Keras model that the files were made from."


def _trained_row(
    own: dict[str, Any], content: Mapping[str, Any], trainings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the row of the model that a training made, or of what was then made of it.

    Where none was measured, the model has a row without an accuracy.
    """
    from keras_kd.report import model_result

    path = content["result"]["model"]
    made, found = os.path.realpath(path), None
    for _ in trainings:
        found = found or own["rows"].get(made)
        later = (c for c in trainings if os.path.realpath(c["settings"]["student"]) == made)
        made = next((os.path.realpath(c["result"]["model"]) for c in later), made)
    if found is None:
        name = pathlib.Path(path).name
        found = model_result(
            _free_key(own["models"], pathlib.Path(name).stem),
            f"{name} (not measured)",
            description=f"'{path}', which was not measured.",
            parameters=content["result"]["parameters"],
        )
        own["models"].append(found)
        own["rows"][os.path.realpath(path)] = found
    return found


def _add_training(row: dict[str, Any], content: Mapping[str, Any]) -> None:
    from keras_kd.report.histories import curves_of

    command, result = content["command"], content["result"]
    seed = content["settings"].get("seed", 0)
    title = _TITLES[command]
    if command == "distill":
        row["curves"] += curves_of(title, {title: {seed: result["history"]}})
        return
    for stage, history in result["history"].items():
        by_title = {f"{title}: {stage}": {seed: history}}
        row["curves"] += [{**curve, "stage": stage} for curve in curves_of(title, by_title)]
    row["layers"] = [_layer(record) for record in result["layers"]]


def _layer(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": record["name"],
        "class": record["class_name"],
        "parameters": record["parameters"],
        "sparsity": record["sparsity"],
        "bits": record["bits"],
        "bytes": None,
        "done": [str(text) for text in record["done"]],
        "not_done": [str(text) for text in record["not_done"]],
    }


def _free_key(models: Sequence[Mapping[str, Any]], key: str) -> str:
    taken = {model["key"] for model in models}
    number = 2
    free = key
    while free in taken:
        free = f"{key}_{number}"
        number += 1
    return free


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return pathlib.PurePath(os.path.relpath(path, folder)).as_posix()
