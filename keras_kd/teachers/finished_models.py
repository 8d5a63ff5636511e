"""FinishedModels: a folder of models that were trained one after the other."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.models.layers import hash_of_weights
from keras_kd.models.opening import open_model
from keras_kd.system.files import atomic_path, check_writable
from keras_kd.system.reading import read_json


class FinishedModels:
    """Keeps every finished model of a run, so that a stopped run goes on behind the last.

    Each is a `.keras` file with a JSON file beside it: the history, and hashes of the weights of
    the model and of its teacher, by which a model of another run is told.

    Args:
        path: The folder.
        what: What the files are called, with their number behind it.

    Raises:
        OSError: If `path` cannot be written to.
    """

    def __init__(self, path: pathlib.Path, what: str) -> None:
        self.path = path
        self.what = what
        check_writable(path / f"{what}_1.keras")

    def _files(self, index: int) -> tuple[pathlib.Path, pathlib.Path]:
        stem = f"{self.what}_{index + 1}"
        return self.path / f"{stem}.keras", self.path / f"{stem}.json"

    def keep(
        self, index: int, teacher: Any, model: keras.Model, history: Mapping[str, Any] | None
    ) -> None:
        """Write a finished model.

        Args:
            index: Its place in the run, counted from 0.
            teacher: The model that taught it.
            model: The model.
            history: The history of its training, or `None`.
        """
        model_file, record_file = self._files(index)
        with atomic_path(model_file) as temporary:
            model.save(temporary)
        record = {
            "model": hash_of_weights(model),
            "teacher": hash_of_weights(teacher),
            "history": None if history is None else _plain(history),
        }
        # Written last: a model counts as finished once its record is there.
        with atomic_path(record_file) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def restore(
        self, index: int, teacher: Any, model: keras.Model
    ) -> tuple[keras.Model, Mapping[str, Any] | None] | None:
        """Return a finished model and its history, or `None` if it is not there.

        Args:
            index: Its place in the run, counted from 0.
            teacher: The model that teaches it in this run.
            model: The untrained model, which receives the weights.

        Raises:
            ValueError: If the file is damaged, or of another model or another teacher.
        """
        model_file, record_file = self._files(index)
        if not record_file.exists():
            return None
        advice = f"Give another `path`, or remove '{self.path}' to train again."
        try:
            record = read_json(record_file)
            known, taught_by, history = record["model"], record["teacher"], record["history"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"'{record_file}' is damaged. {advice}") from None
        if taught_by != hash_of_weights(teacher):
            raise ValueError(
                f"'{model_file}' was taught by another teacher, or by this one with other "
                f"weights. {advice}"
            )
        if not model_file.exists():
            raise ValueError(f"'{record_file}' is there, but '{model_file}' is not. {advice}")
        try:
            if model.built:
                model.load_weights(model_file)
            else:
                model = open_model(model_file)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ValueError(
                f"'{model_file}' does not fit the model '{model.name}', or is damaged: {reason} "
                f"{advice}"
            ) from error
        if hash_of_weights(model) != known:
            raise ValueError(f"'{model_file}' is not the model that was kept there. {advice}")
        return model, history


def _plain(history: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: [float(value) for value in values] for name, values in history.items()}
