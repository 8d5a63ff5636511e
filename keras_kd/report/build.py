"""Building a result from your own measurements: one row per model, and the result of all rows."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.litert.metadata import described
from keras_kd.report.histories import curves_of, stages_of
from keras_kd.report.layers import layer_results
from keras_kd.report.schema import with_current_names

_FILE_KEYS = (
    "bytes", "zipped_bytes", "operators", "latency_p99_ms",
    "latency_without_xnnpack_ms", "latency_runs", "latency_batch", "threads", "delegate",
    "max_difference", "mean_difference", "peak_memory_bytes", "loads_with_xnnpack", "macs",
    "xnnpack_error", "constants", "zero_constants", "constant_types", "float_operators",
)  # fmt: skip
_PACKAGES = (
    "keras-kd", "keras", "tensorflow", "tf-keras", "tensorflow-model-optimization",
    "ai-edge-litert", "numpy",
)  # fmt: skip
_MODEL_KEYS = ("samples", "metrics", "per_class", "confusion", "calibration")


def model_result(
    key: str,
    title: str,
    keras_model: Any = None,
    file_result: Any = None,
    *,
    description: str = "",
    accuracy: float | Mapping[int, float] | None = None,
    model_accuracy: float | Mapping[int, float] | None = None,
    history: Any = None,
    compressed: Any = None,
    layers: bool | Sequence[Mapping[str, Any]] = True,
    devices: Sequence[Any] = (),
    **entries: Any,
) -> dict[str, Any]:
    """Return the row of one model, for `make_result`.

    Args:
        key: Unique among the rows. `"teacher"` is what all others are compared with;
            `"student_alone"` and `"distilled"` are compared in the headline if they have as many
            parameters.
        title: What the model is called on the page.
        keras_model: The model: a Keras model, a `tf_keras` model, what `kd.compress` returned, or
            any callable, of which the number of parameters is not known. Defaults to `None`.
        file_result: What `kd.evaluate_tflite` returned for its file (or its `to_dict()`), or a
            dict of them by seed; the first one is shown in detail. Defaults to `None`: no file
            was exported.
        description: What the model is, in a sentence. Defaults to `""`.
        accuracy: Accuracy of the Keras model in 0..1, or a dict of them by seed, which takes the
            place of the file's. A dict holds every seed of `file_result`, and may hold more.
            Defaults to `None`: the file's.
        model_accuracy: That of the Keras model, beside the file's; a dict may leave seeds out.
            Defaults to `None`: what `kd.evaluate_tflite` measured.
        history: What `fit` returned or a dict of lists; for several trainings a dict of them by
            title, or of dicts of them by seed. Defaults to `None`.
        compressed: What `kd.compress` returned, or the folder that was its `path`: its stages and
            their histories are taken. Defaults to `None`: `keras_model`, if it is a compressed one.
        layers: Whether to list the layers of `keras_model`, with their sizes in the file if it can
            be read; or the list itself. Defaults to `True`.
        devices: What `kd.read_device_benchmark` and `kd.device_cost` returned for its file, beside
            the `device_cost` of `file_result`. Defaults to none.
        **entries: Further keys of a report's model, which replace what was
            found: `parameters`, `samples`, `per_class`, `confusion`, `calibration`, ...

    Returns:
        A dict in the form of a report's model.

    Raises:
        TypeError: If `file_result` or `history` is of another type.
        ValueError: If `compressed` is a folder without a run, or `accuracy` or `model_accuracy`
            does not fit the seeds.

    Example:

    ```python
    row = kd.report.model_result("teacher", "Teacher", teacher, kd.evaluate_tflite(path, test))
    ```
    """
    files = _by_seed(file_result)
    shown = next(iter(files.values()), None)
    row: dict[str, Any] = {
        "key": key,
        "title": title,
        "description": description,
        **_parameters(keras_model, shown),
        "seeds": _seeds(files, accuracy, entries.pop("keras_accuracy", model_accuracy)),
        "accuracy_of": "keras model" if shown is None or accuracy is not None else "file",
        "file": None if shown is None else _file(shown),
    }
    if shown is not None:
        row |= {name: shown[name] for name in _MODEL_KEYS if shown.get(name) is not None}
    told = [*devices, *([] if shown is None else [shown.get("device_cost")])]
    row["devices"] = [_device(entry) for entry in told if entry is not None]
    if not isinstance(layers, bool):
        row["layers"] = [dict(layer) for layer in layers]
    elif layers and getattr(keras_model, "layers", None):
        path = None if shown is None else pathlib.Path(shown["path"])
        there = path is not None and path.is_file()
        row["layers"], row["other_bytes"] = layer_results(keras_model, path if there else None)
    if compressed is None and hasattr(keras_model, "stages"):
        compressed = keras_model
    curves = curves_of(title, history)
    if compressed is not None:
        row["stages"], stage_curves = stages_of(compressed)
        curves += stage_curves
    row["curves"] = curves
    return {**row, **entries}


def make_result(
    title: str,
    models: Sequence[Mapping[str, Any]],
    *,
    dataset: str = "",
    part: str = "",
    classes: Iterable[str] = (),
    command: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
    packages: Iterable[str] = (),
    shipped: str | None = None,
) -> dict[str, Any]:
    """Return the result of rows that `model_result` made, for `write_report`.

    Versions, the machine and the time are those of this process.

    Args:
        title: The headline of the page.
        models: The rows, in the order of the table.
        dataset: The dataset's name. Defaults to `""`.
        part: The part of it that was measured, such as `"test"`. Defaults to `""`: not known.
        classes: Names of the classes, in the order of the labels. Defaults to none.
        command: What to type to get this result again. Defaults to `None`: the command that
            started this process.
        recipe: Every choice of the run, for the reader. Defaults to `None`.
        seconds: How long each part took. Defaults to `None`.
        notes: Sentences that a reader needs. Defaults to none.
        packages: Further distributions whose versions matter. Defaults to none.
        shipped: Key of the model that the page begins with and the card is about. Defaults to
            `None`: the smallest file within a point of the teacher, else the most accurate student.

    Returns:
        A dict in the form of a report.

    Example:

    ```python
    result = kd.report.make_result("Flowers", [
        kd.report.model_result("teacher", "Teacher", teacher, teacher_file),
        kd.report.model_result("student", "Student", student, student_file),
    ], classes=names)
    kd.report.write_report(result, "exports/flowers")
    ```
    """
    models = [dict(model) for model in models]
    seeds = {int(seed) for model in models for seed in model.get("seeds", ())}
    result: dict[str, Any] = {
        "title": title,
        "dataset": dataset,
        "classes": [str(name) for name in classes],
        "command": _script_command() if command is None else command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(packages),
        "seeds": sorted(seeds),
        "environment": _environment(),
        "models": models,
        "notes": list(notes),
    }
    if part:
        result["part"] = part
    if recipe is not None:
        result["recipe"] = dict(recipe)
    if shipped is not None:
        result["shipped"] = shipped
    if seconds is not None:
        result["seconds"] = dict(seconds)
    return result


def _by_seed(file_result: Any) -> dict[int, dict[str, Any]]:
    """Return measurements of files as dicts by seed."""
    if file_result is None:
        return {}
    if isinstance(file_result, Mapping) and "bytes" not in file_result:
        return {int(seed): _measured(entry) for seed, entry in file_result.items()}
    return {0: _measured(file_result)}


def _measured(entry: Any) -> dict[str, Any]:
    values = entry.to_dict() if hasattr(entry, "to_dict") else entry
    if not isinstance(values, Mapping) or "bytes" not in values:
        raise TypeError(
            "`file_result` must be what `kd.evaluate_tflite` returned, its `to_dict()`, or a dict "
            f"of them by seed. Received: {type(entry).__name__}."
        )
    return with_current_names(dict(values))


def _file(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": os.fspath(measured["path"]),
        **{key: measured.get(key) for key in ("latency_ms", "latency_p90_ms", "agreement")},
        **{key: measured[key] for key in _FILE_KEYS if measured.get(key) is not None},
        **_at_export(pathlib.Path(measured["path"])),
    }


def _at_export(path: pathlib.Path) -> dict[str, Any]:
    """Return what the export measured of a file, from the JSON beside it."""
    found = described(path, path.read_bytes(), warn=False) if path.is_file() else None
    fidelity = (found or {}).get("fidelity")
    if fidelity is None:
        return {}
    names = ("agreement", "signal_to_noise_db", "samples", "held_out", "calibration")
    return {"at_export": {name: fidelity.get(name) for name in names}}


def _device(entry: Any) -> dict[str, Any]:
    """Return a row of the table of devices, of what was measured there or is estimated."""
    values = entry.to_dict() if hasattr(entry, "to_dict") else dict(entry)
    if "device" not in values:
        raise TypeError(
            "`devices` must be what `kd.read_device_benchmark` or `kd.device_cost` returned. "
            f"Received: {type(entry).__name__}."
        )
    if "vela_version" in values:
        left = sum(values["cpu_operators"].values())
        return {
            "device": values["device"],
            "by": f"Vela {values['vela_version']}, an estimate",
            # Of a file of which nothing runs on the accelerator, no latency is known.
            "latency_ms": values["latency_ms"] if values["npu_operators"] else None,
            "operators": {"NPU": values["npu_operators"], **({"CPU": left} if left else {})},
            "memory": {
                name: values[f"{name.lower()}_bytes"]
                for name in ("SRAM", "DRAM", "flash")
                if values[f"{name.lower()}_bytes"]
            },
        }
    median, peak = values["latency_ms"], values["peak_memory_bytes"]
    return {
        "device": values["device"],
        "by": {"qai_hub": "Qualcomm AI Hub"}.get(values["tool"], values["tool"]),
        "latency_ms": values["latency_mean_ms"] if median is None else median,
        "operators": values["operators"],
        "memory": {} if peak is None else {"at its peak": peak},
    }


def _seeds(
    files: Mapping[int, Mapping[str, Any]],
    accuracy: float | Mapping[int, float] | None,
    model_accuracy: float | Mapping[int, float] | None,
) -> dict[str, dict[str, Any]]:
    dicts = [
        {int(seed): value for seed, value in values.items()} if isinstance(values, Mapping) else {}
        for values in (accuracy, model_accuracy)
    ]
    every = list({**files, **dicts[0]} or dicts[1] or {0: None})
    given = _fitting("accuracy", accuracy, every)
    models = _fitting("model_accuracy", model_accuracy, every)
    seeds: dict[str, dict[str, Any]] = {}
    for seed in every:
        file = files.get(seed, {})
        entry = {"accuracy": given.get(seed, file.get("accuracy"))}
        of_model = models.get(seed, file.get("model_accuracy"))
        if of_model is not None:
            entry["model_accuracy"] = of_model
        for key in ("agreement", "bytes", "zipped_bytes"):
            if key in file:
                entry[key] = file[key]
        seeds[str(seed)] = entry
    return seeds


def _fitting(
    name: str, values: float | Mapping[int, float] | None, seeds: Sequence[int]
) -> dict[int, float]:
    """Return accuracies by seed; `accuracy` has all of the seeds, `model_accuracy` some."""
    if values is None:
        return {}
    if isinstance(values, Mapping):
        found = {int(seed): value for seed, value in values.items()}
        fits = set(seeds) <= set(found) if name == "accuracy" else set(found) <= set(seeds)
    else:
        found, fits = {seeds[0]: values}, len(seeds) == 1
    if not fits:
        raise ValueError(
            f"`{name}` must be a dict with a value for each seed. Received: {name}={values!r} and "
            f"the seeds {list(seeds)}."
        )
    return found


def _parameters(model: Any, measured: Mapping[str, Any] | None) -> dict[str, int | None]:
    """Count the parameters of a model; of another model, those of the file."""
    parameters = nonzero = None
    if hasattr(model, "count_params"):
        parameters = int(model.count_params())
        weights = getattr(model, "model", model).weights
        kernels = [np.asarray(weight) for weight in weights if len(weight.shape) > 1]
        nonzero = parameters - int(sum((kernel == 0).sum() for kernel in kernels))
    elif measured is not None and measured.get("parameters") is not None:
        parameters = int(measured["parameters"])
    return {"parameters": parameters, "nonzero_parameters": nonzero}


def _versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of what this package stands on, and of `packages`.

    Args:
        packages: Names of further distributions. Defaults to none. What is not installed is left
            out.
    """
    found = {"python": platform.python_version()}
    for name in dict.fromkeys((*_PACKAGES, *packages)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "keras-kd":  # run from a checkout
                from keras_kd._version import __version__

                found[name] = __version__
    return found


def _environment() -> dict[str, Any]:
    """Return what describes this machine: its cores, its processor, its system."""
    processor = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"cores": os.cpu_count(), "processor": processor, "system": platform.system()}


def _script_command() -> str:
    """Return the command that this process was started with, as it can be typed again.

    Returns:
        `"python train.py --epochs 3"`; `""` in a notebook or a console, where there is none.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not script or "ipykernel" in script or not sys.argv or not sys.argv[0]:
        return ""
    path = pathlib.Path(script)
    try:
        shown = path.resolve().relative_to(pathlib.Path.cwd()).as_posix()
    except ValueError:
        shown = path.name
    return shlex.join(["python", shown, *sys.argv[1:]])
