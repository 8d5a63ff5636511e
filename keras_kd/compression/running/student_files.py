"""A student in a file, and what the stages know of it as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_kd.compression.stages.layer_record import LayerNotes
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.models.calls import name_operations, operation_names
from keras_kd.models.copying import check_layers_in_files, set_trainable, trainable_of
from keras_kd.models.graph import flat_layers
from keras_kd.models.opening import describe, open_model
from keras_kd.system.json_values import plain
from keras_kd.system.quiet import capture_output
from keras_kd.system.reading import parse_json
from keras_kd.system.remaking import own_kinds

OLD_STUDENT = (
    "'{}' holds a quantization-aware student that an earlier version of keras_kd wrote for "
    "tf_keras, which this version does not read. Run `compress` with QuantizeAware again, from the "
    "Keras 3 student."
)
_NAMES = "keras_kd_names"
_TRAINABLE = "keras_kd_trainable"


def save_student(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save a student, with the names and `trainable` flags of inner layers, which Keras leaves out.

    Args:
        model: The model.
        path: The file, `.keras` or `.h5`.

    Raises:
        ValueError: If it could not be loaded again.
    """
    check_layers_in_files(model)
    with warnings.catch_warnings(), capture_output():
        warnings.simplefilter("ignore")  # of .h5 Keras says that .keras is better
        model.save(path)
    records = {_NAMES: operation_names(model), _TRAINABLE: trainable_of(model)}
    if pathlib.Path(path).suffix == ".h5":
        import h5py

        with h5py.File(path, "a") as file:
            for name, record in records.items():
                file.attrs[name] = json.dumps(record)
        return
    with zipfile.ZipFile(path, "a") as archive:
        for name, record in records.items():
            archive.writestr(f"{name}.json", json.dumps(record))


def load_student(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Load what `save_student` wrote.

    Args:
        path: The file.
        custom_objects: Classes by name, for a model of classes that are not registered. Defaults
            to `None`.
        safe_mode: Whether code in the file, such as that of a `Lambda` layer, is refused. Defaults
            to `True`.

    Raises:
        ValueError: If the file is damaged, holds code or names classes that are not known.
    """
    model = open_model(path, custom_objects, safe_mode)
    texts = describe(path, _NAMES, _TRAINABLE).records
    if _NAMES in texts:
        name_operations(model, [str(name) for name in parse_json(texts[_NAMES], path)])
    if _TRAINABLE in texts:
        set_trainable(model, [bool(flag) for flag in parse_json(texts[_TRAINABLE], path)])
    return model


def classes_of(model: keras.Model) -> dict[str, Any]:
    """Return the classes and functions of a model's layers that are not Keras's own, by name."""
    return {name: kind for layer in flat_layers(model) for name, kind in own_kinds(layer).items()}


def state_to_json(state: StudentState) -> dict[str, Any]:
    """Return everything that is known of a student but its model, as JSON can hold it."""
    content = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.name != "model"
    }
    content["notes"] = {path: dataclasses.asdict(note) for path, note in state.notes.items()}
    return as_json(content)


def state_from_json(content: Mapping[str, Any], model: Any) -> StudentState:
    """Make a state again from `state_to_json` and its model."""
    known = {field.name for field in dataclasses.fields(StudentState)}
    fields = {name: value for name, value in content.items() if name in known}
    fields["parts"] = {path: tuple(names) for path, names in fields["parts"].items()}
    fields["notes"] = {path: LayerNotes(**note) for path, note in fields["notes"].items()}
    fields["history"] = numbers_from_json(fields["history"])
    return StudentState(model, **fields)


def config_of(value: Any) -> dict[str, Any]:
    """Return the configuration of a stage, loss or other object; its attributes at worst.

    Keras cannot serialize every function that a user may give, such as one of a notebook.
    """
    try:
        return dict(value.get_config())
    except (NotImplementedError, OSError, TypeError, ValueError) as error:
        if isinstance(value, Stage) and isinstance(error, NotImplementedError):
            raise  # without the arguments, runs that differ in them would seem the same
        return {key: part for key, part in vars(value).items() if not key.startswith("_")}


def numbers_from_json(content: Any) -> Any:
    """Return numbers that `as_json` has written, in lists and dictionaries: null was not finite."""
    if isinstance(content, Mapping):
        return {key: numbers_from_json(part) for key, part in content.items()}
    if isinstance(content, list):
        return [numbers_from_json(part) for part in content]
    return math.nan if content is None else content


def object_as_json(value: Any, known: Callable[[Any], Any]) -> Any:
    """Return an object as its arguments, or as its name where it has none.

    Args:
        value: The object.
        known: What becomes of the objects among its arguments.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value), known)
    if hasattr(value, "get_config"):
        return {"class": type(value).__name__, "config": plain(config_of(value), known)}
    return getattr(value, "__qualname__", None) or type(value).__name__


def as_json(content: Any) -> Any:
    """Return `content` as it comes back from a JSON file.

    NumPy's numbers become numbers; functions and other objects are identified by their names.
    """

    def known(value: Any) -> Any:
        return object_as_json(value, known)

    return plain(content, known)
