"""Files and models, measured on the same data."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import keras_kd as kd
from keras_kd.cli.console import Console
from keras_kd.cli.model_files import LoadedModel, load_model
from keras_kd.cli.preprocessing import (
    Preprocessing,
    begins_with_scaling,
    resolve_preprocessing,
    teachers_scale,
)
from keras_kd.cli.sources import open_source
from keras_kd.cli.task_data import (
    batches,
    check_classes,
    measured_on,
    split_indices,
    warn_of_training_data,
)
from keras_kd.litert.metadata import read_metadata
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.answers import CLASSIFICATION
from keras_kd.measuring.reference import Reference
from keras_kd.measuring.scores import Scores
from keras_kd.models.outputs import name_outputs
from keras_kd.report.numbers import ratio_text
from keras_kd.system.text_table import text_table


class Measuring:
    """Measures files on the data that the settings name.

    Args:
        settings: The settings of `measure`.
        model: The model that the files were made from, or `None`.
        teacher: The teacher, or `None`.
        console: Says what is measured.

    Attributes:
        source: The data; `None` if none are given.
        data_text: Which part of them is measured on.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        model: LoadedModel | None,
        teacher: LoadedModel | None,
        console: Console,
    ) -> None:
        self._settings = settings
        self._teachers_scale = teachers_scale(settings)
        self._models = {loaded.path: loaded for loaded in (model, teacher) if loaded is not None}
        self._model = model
        self._results: dict[str, Any] = {}
        self._console = console
        self._made: Preprocessing | None = None
        self._indices: np.ndarray | None = None
        self.source: Any = None  # a `Source`
        self.data_text = "none; random inputs"
        if settings["data"] is not None or settings["validation_data"] is not None:
            self._open_data(settings)

    def _open_data(self, settings: Mapping[str, Any]) -> None:
        text, default_split, part = measured_on(settings)
        self.source = open_source(text, default_split)
        if part is not None:
            split = settings["validation_split"]
            train, validation = split_indices(self.source.count, split, settings["seed"])
            self._indices = train if part == "train" else validation
            if not len(self._indices):
                raise ValueError(
                    "--part validation needs a --validation-split above 0, or --validation-data."
                )
        number = self.source.count if self._indices is None else len(self._indices)
        split = f":{self.source.split}" if self.source.split and ":" not in text else ""
        which = f", the part for {part}" if self._indices is not None else ""
        self.data_text = f"{text}{split}, {number:,} examples{which}"

    def measure(self, path: str) -> dict[str, Any]:
        """Return what a file or a model does, as JSON can hold it."""
        if pathlib.Path(path).suffix in (".keras", ".h5"):
            return self._measure_model(path)
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"There is no file '{path}'.")
        notes = read_metadata(path) or {}
        data: Any
        seen = 0
        if self.source is None:
            data = LiteRuntime(path, xnnpack=None).example_inputs()
        else:
            check_classes(self.source, None, path, notes.get("class_names"))
            seen = self._trained_on(path, notes)
            data = self._batches(path, self._file_input_shape(path), notes, None)
        result = kd.evaluate_tflite(
            path,
            data,
            model=None if self._model is None else self._model.model,
            device=self._settings["device"],
        )
        self._results[path] = result
        return {
            "file": path,
            "kind": "tflite",
            "form": notes.get("quantization"),
            "trained_on": seen,
            **result.to_dict(),
        }

    def _measure_model(self, path: str) -> dict[str, Any]:
        loaded = self._models.get(path)
        if loaded is None:
            loaded = load_model(path, self._settings["custom_objects"])
        check_classes(self.source, loaded.classes, path, loaded.notes.get("class_names"))
        seen = self._trained_on(path, loaded.notes)
        data = self._batches(path, loaded.input_shape, loaded.notes, loaded.keras_model)
        scores = _scores(loaded, data)
        scores.warn_of_not_finite(path)
        weights = [np.asarray(weight) for weight in loaded.keras_model.weights]
        is_teacher = path == self._settings["teacher"]
        return {
            "tflite": self._own_file(path, loaded, data) if is_teacher else None,
            "file": path,
            "kind": "model",
            "trained_on": seen,
            "accuracy": scores.accuracy,
            "samples": scores.samples,
            "bytes": pathlib.Path(path).stat().st_size,
            "parameters": int(loaded.model.count_params()),
            "zeros": int(sum((weight == 0).sum() for weight in weights if weight.ndim > 1)),
        }

    def _own_file(self, path: str, loaded: LoadedModel, data: Any) -> dict[str, Any] | None:
        """Return what a model does as a float32 file; it is kept in the run's folder."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(self._settings["out"] or temporary)
            file = folder / f"{pathlib.Path(path).stem}_float32.tflite"
            try:
                kd.export_tflite(loaded.keras_model, file, "float32", verbose=False)
            except (ValueError, TypeError) as error:
                self._console.say(
                    f"  '{path}' cannot be written as a file to compare with: {error}"
                )
                return None
            return kd.evaluate_tflite(file, data, model=loaded.keras_model).to_dict()

    def not_kept(self, path: str, budget: kd.Budget, reference: float | None) -> Sequence[str]:
        """Return a sentence for each limit that a file does not keep."""
        found = budget.check(self._results[path], reference_accuracy=reference)
        return [f"{path}: {sentence}" for sentence in found]

    def _batches(
        self, path: str, shape: tuple[int, ...], notes: Mapping[str, Any], model: Any
    ) -> Any:
        settings = self._settings
        scale, offset = settings["scale"], settings["offset"]
        stored = notes.get("preprocessing")
        if path == settings["teacher"] and self._teachers_scale is not None:
            scale, offset = self._teachers_scale
        elif stored is None and scale is None and self._made and not begins_with_scaling(model):
            # As in training, where a teacher without its own preprocessing takes the student's.
            self._console.say(f"  '{path}' has no stored preprocessing: using {self._made}")
            scale, offset = self._made.scale, self._made.offset
        made: Preprocessing = resolve_preprocessing(
            shape,
            scale,
            offset,
            stored,
            model if model is not None else getattr(self._model, "keras_model", None),
            self.source.integers,
        )
        self._made = self._made or made
        return batches(self.source, self._indices, made, settings["batch_size"])

    def _file_input_shape(self, path: str) -> tuple[int, ...]:
        inputs = LiteRuntime(path, xnnpack=None).inputs
        if len(inputs) != 1:
            raise ValueError(
                f"'{path}' has {len(inputs)} inputs. The command line takes models with one "
                "input; use keras_kd.evaluate_tflite in Python."
            )
        sizes = inputs[0].shape[1:]
        if None in sizes:
            raise ValueError(
                f"'{path}' has an input of open size: {sizes}. Measure it with "
                "keras_kd.evaluate_tflite in Python."
            )
        return tuple(int(size or 0) for size in sizes)

    def _trained_on(self, path: str, notes: Mapping[str, Any]) -> int:
        """Return on how many of the examples it was trained, and warn if they are not to be."""
        if self._settings["part"] == "train":
            return 0
        return warn_of_training_data(path, notes, self.source, self._indices, self._settings)


def _scores(loaded: LoadedModel, data: Any) -> Scores:
    """Return what a model answers, counted as the answers of files are."""
    (name,) = name_outputs(loaded.keras_model, loaded.keras_model.outputs)
    answer = Reference(loaded.model, [name], 0, loaded.path)
    scores = Scores(name, answer.end, task=CLASSIFICATION)
    for x, y in data:
        scores.add(answer(x)[0], y.numpy(), None)
    return scores


_COLUMNS = ("file", "accuracy", "agreement", "bytes", "zipped", "latency ms", "parameters")
_OF_TEACHER = "of the teacher"


def table(files: Sequence[Mapping[str, Any]]) -> str:
    """Return the measurements as a table, one row per file."""
    teacher = next((entry["tflite"] for entry in files if entry.get("tflite")), None)
    rows = [[*_COLUMNS, *([_OF_TEACHER] if teacher else [])]]
    marked = False
    for entry in files:
        # A teacher counts as its own .tflite file, as a .keras file also holds the optimizer.
        file = entry.get("tflite") or entry
        ratio = (
            file["bytes"] / teacher["bytes"]
            if teacher and (file is not entry or entry["kind"] == "tflite")
            else None
        )
        mark = " *" if file is entry and entry["kind"] == "model" else ""
        marked |= bool(mark)
        rows.append(
            [
                str(entry["file"]),
                _share(entry.get("accuracy")),
                _share(entry.get("agreement")),
                _count(file.get("bytes")) + mark,
                _count(file.get("zipped_bytes")) + mark,
                "–" if file.get("latency_ms") is None else f"{file['latency_ms']:.3g}",
                _count(entry.get("parameters", entry.get("constants"))),
                *([ratio_text(ratio)] if teacher else []),
            ]
        )
    note = "\n* of a Keras file, not comparable with those of .tflite files" if marked else ""
    return text_table(rows) + note


def device_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """Return the device estimates as a table, one row per file."""
    rows = [["file", "device", "on the NPU", "on the CPU", "SRAM", "flash", "cycles", "ms"]]
    for cost in costs:
        left = ", ".join(f"{name} x{count}" for name, count in cost["cpu_operators"].items())
        rows.append(
            [
                str(cost["path"]),
                str(cost["device"]),
                f"{cost['npu_operators']} of {cost['operators']}",
                left or "–",
                *(_count(cost[key] or None) for key in ("sram_bytes", "flash_bytes", "cycles")),
                f"{cost['latency_ms']:.3g}" if cost["cycles"] else "–",
            ]
        )
    return text_table(rows)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
