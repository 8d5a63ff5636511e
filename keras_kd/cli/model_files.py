"""Reading model files, with your own classes and with the notes beside them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from keras_kd.cli.named import object_name
from keras_kd.system.files import write_json
from keras_kd.system.reading import read_json


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model from a file.

    Attributes:
        path: The file.
        model: The Keras model, or the `CompressedModel`.
        notes: What stands beside it: `"preprocessing"`, `"class_names"` and more; empty where
            nothing does.
    """

    path: str
    model: Any
    notes: dict[str, Any]

    @property
    def keras_model(self) -> Any:
        """The model without its wrapping."""
        return getattr(self.model, "model", self.model)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, without the batch."""
        return _one_shape(self.path, self.keras_model.inputs, "input")

    @property
    def units(self) -> int:
        """Number of units of the one output."""
        shape = _one_shape(self.path, self.keras_model.outputs, "output")
        if len(shape) != 1:
            raise ValueError(
                f"'{self.path}' gives outputs of shape {shape} for an example. The command line is "
                "for classifiers, with one output per class; for others use keras_kd in Python."
            )
        return shape[0]

    @property
    def classes(self) -> int:
        """Number of classes of the model."""
        return max(self.units, 2)


def _one_shape(path: str, tensors: Sequence[Any] | None, what: str) -> tuple[int, ...]:
    if tensors is None or len(tensors) != 1:
        raise ValueError(
            f"'{path}' has {len(tensors or [])} {what}s, or does not tell them. The command line "
            f"is for models with one {what}; for others use keras_kd in Python."
        )
    shape = tuple(tensors[0].shape[1:])
    if any(size is None for size in shape):
        raise ValueError(
            f"'{path}' leaves the size of its {what} open: {shape}. Save it with a fixed size, "
            "keras.Input((height, width, channels))."
        )
    return shape


def custom_objects(names: Sequence[str] | None) -> dict[str, Any]:
    """Return the objects that `module:Name` name, by their names.

    Raises:
        ValueError: If a name is not of this form, or there is no such module or object.
    """
    found: dict[str, Any] = {}
    for text in names or []:
        module, name = object_name(text)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            found[name] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--custom-objects {text}: {error}.") from None
    return found


def load_model(path: str, custom: Sequence[str] | None = None) -> LoadedModel:
    """Return the model of a `.keras` or `.h5` file.

    Args:
        path: The file, of Keras or of `CompressedModel.save`.
        custom: `module:Name` of the classes that it names. Defaults to `None`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be loaded.
    """
    import keras

    import keras_kd as kd
    from keras_kd.compression.running.compressed_model import is_compressed

    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no model file '{path}'.")
    if file.suffix not in (".keras", ".h5"):
        raise ValueError(f"'{path}' is not a .keras or .h5 file.")
    objects = custom_objects(custom)
    # Registered until the process ends: stages rebuild models from their configuration.
    keras.saving.get_custom_objects().update(objects)
    compressed = is_compressed(file)
    model = kd.load_compressed(file) if compressed else kd.teachers.load(file)
    return LoadedModel(path, model, read_notes(path))


def _notes_path(path: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what stands beside a model file, in `<name>.json`; empty where nothing does."""
    notes = _notes_path(path)
    if not notes.is_file():
        return {}
    try:
        content = read_json(notes)
    except ValueError as error:
        raise ValueError(f"'{notes}', which belongs to '{path}', is damaged. {error}") from None
    return content if isinstance(content, dict) else {}


def write_notes(path: str | os.PathLike[str], notes: dict[str, Any]) -> None:
    """Write what stands beside a model file; what `export_tflite` wrote there is kept."""
    if pathlib.Path(path).suffix == ".tflite":
        notes = {**read_notes(path), **notes}
    write_json(_notes_path(path), notes)
