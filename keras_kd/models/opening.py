"""Opening model files, which may come from elsewhere: the one place that loads them.

A file is looked at before any of it is loaded: that it is whole, that nothing in it is larger than
it seems or refers to other files, and that it holds no code and no class that is not known. What is
wrong gives a `ValueError` that names the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_kd.system.reading import check_archive, is_out_of_proportion, parse_json

_CONFIG, _METADATA = "config.json", "metadata.json"

# Layers that hold code, or whose file is run as code.
_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# What Keras itself finds by the name of a module; it imports no other module.
_PACKAGES = (
    "builtins", "keras", "keras_cv", "keras_hub", "keras_nlp", "tensorflow_model_optimization",
    "tf_keras",
)  # fmt: skip
_FUNCTIONS = {
    "builtins", "activations", "constraints", "initializers", "losses", "metrics", "ops",
    "regularizers",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Described:
    """The description in a model file.

    Attributes:
        config: The configuration of the model.
        keras_2: Whether Keras 2 wrote it.
        records: The texts beside the model that were asked for and are there, by name.
    """

    config: dict[str, Any]
    keras_2: bool
    records: Mapping[str, str | bytes]


def open_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Return the model of a `.keras` or `.h5` file, uncompiled, as are the models inside it.

    Files of Keras 2 (`tf.keras`) become models of Keras 3 with the same outputs.

    Args:
        path: The file.
        custom_objects: Classes and functions that it names, by name. Defaults to `None`.
        safe_mode: Whether code in the file, such as that of a `Lambda` layer, is refused. Defaults
            to `True`.

    Raises:
        OSError: If there is no readable file.
        ValueError: If it is damaged, of another kind, holds code or names classes that are not
            known; names the file.
    """
    path = pathlib.Path(path)
    described = describe(path)
    outer = {key: part for key, part in described.config.items() if key != "compile_config"}
    config = _uncompiled(outer) if path.suffix == ".keras" else outer
    objects = dict(custom_objects or {})
    with _named(path):
        if safe_mode:
            _refuse_code(config, path)
        _refuse_unknown(config, path, objects)
        with _holding(path, config, outer) as file:
            if described.keras_2:
                from keras_kd.models.keras_2 import open_keras_2

                return open_keras_2(path, file, config, objects, safe_mode)
            return keras.saving.load_model(
                file, custom_objects=objects, compile=False, safe_mode=safe_mode
            )


def describe(path: str | os.PathLike[str], *records: str) -> Described:
    """Look at a model file without loading the model.

    Args:
        path: The file.
        *records: Names of texts that may stand in it beside the model.

    Raises:
        OSError: If there is no readable file.
        ValueError: If it is damaged or of another kind, or larger than it seems.
    """
    path = pathlib.Path(path)
    with open(path, "rb"):  # what the system says of it comes first
        pass
    with _named(path):
        look = _look_at_archive if path.suffix == ".keras" else _look_at_hdf5
        described = look(path, records)
        if not isinstance(described.config, dict):
            raise ValueError("its configuration is not a model's")
        return described


def _look_at_archive(path: pathlib.Path, records: Sequence[str]) -> Described:
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path)
        names = archive.namelist()
        for name in names:
            if name.endswith(".h5"):
                _check_hdf5(io.BytesIO(archive.read(name)), path)
        metadata = parse_json(archive.read(_METADATA), path) if _METADATA in names else {}
        return Described(
            parse_json(archive.read(_CONFIG), path),
            _is_keras_2(metadata.get("keras_version")),
            {name: archive.read(f"{name}.json") for name in records if f"{name}.json" in names},
        )


def _look_at_hdf5(path: pathlib.Path, records: Sequence[str]) -> Described:
    import h5py

    _check_hdf5(path, path)
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise ValueError("it holds only weights, or is not a file of Keras")
        version = file.attrs.get("keras_version")
        return Described(
            parse_json(config, path),
            _is_keras_2(version.decode() if isinstance(version, bytes) else version),
            {name: file.attrs[name] for name in records if name in file.attrs},
        )


def _is_keras_2(version: Any) -> bool:
    return str(version).startswith("2.")


def _check_hdf5(file: Any, path: pathlib.Path) -> None:
    """Refuse what refers to other files, or declares far more than it holds."""
    import h5py

    size = path.stat().st_size

    def look(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"'{path}' is refused: '{name}' in it is a link to elsewhere.")
        found = opened[name]
        for attribute in found.attrs:
            held = found.attrs.get_id(attribute)
            if math.prod(held.shape) * held.dtype.itemsize > max(size, 1024):
                raise ValueError(f"'{path}' is refused: it is smaller than its '{attribute}'.")
        if not isinstance(found, h5py.Dataset):
            return
        if found.external or found.is_virtual:
            raise ValueError(f"'{path}' is refused: '{name}' in it is in another file.")
        if is_out_of_proportion(found.nbytes, found.id.get_storage_size()):
            raise ValueError(
                f"'{path}' is refused: '{name}' in it declares {found.nbytes:,} bytes and holds "
                f"{found.id.get_storage_size():,}."
            )

    with h5py.File(file, "r") as opened:
        opened.visititems_links(look)


def _refuse_code(config: Any, path: pathlib.Path) -> None:
    for part in _objects(config):
        name, inner = part["class_name"], part.get("config")
        layer = inner.get("name", name) if isinstance(inner, dict) else name
        if name in _CODE:
            what = "Lambda" if name == "__lambda__" else name
            raise ValueError(
                f"'{path}' is refused: '{layer}' in it is a {what}, and loading it would run code "
                "from the file. Pass safe_mode=False if you trust where the file comes from."
            )
        if isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            raise ValueError(
                f"'{path}' is refused: '{layer}' in it reads its vocabulary from another file, "
                f"{inner['vocabulary']!r}. Pass safe_mode=False if you trust where it comes from."
            )
        module = part.get("module")
        if name == "function" and isinstance(module, str) and not part.get("registered_name"):
            _refuse_other_functions(path, module, inner)


def _refuse_other_functions(path: pathlib.Path, module: str, name: Any) -> None:
    if not _FUNCTIONS & set(module.split(".")):
        raise ValueError(
            f"'{path}' is refused: it names the function '{module}.{name}', which is none of a "
            "model's. Pass safe_mode=False if you trust where the file comes from."
        )


def _refuse_unknown(config: dict[str, Any], path: pathlib.Path, objects: dict[str, Any]) -> None:
    """Refuse classes that are neither Keras's nor registered nor given."""
    known = {**keras.saving.get_custom_objects(), **objects}
    own = {key.rpartition(">")[2] for key in known}
    unknown: dict[str, None] = {}
    for part in _objects(config):
        name, module = part["class_name"], part.get("module")
        if "config" not in part or name[:2] == "__" or name == "function":
            continue
        registered = part.get("registered_name") or name
        if module is None:
            built_in = ">" not in str(registered)  # old forms name Keras's own classes like this
        else:
            built_in = isinstance(module, str) and module.split(".")[0] in _PACKAGES
        if not built_in and not {name, registered} & own and registered not in known:
            where = module if isinstance(module, str) and module != "__main__" else "MODULE"
            unknown[f"{where}:{name}"] = None
    if unknown:
        names = ", ".join(text.partition(":")[2] for text in unknown)
        raise ValueError(
            f"'{path}' is made of classes that Keras does not know: {names}. Pass them as "
            "custom_objects={'Name': Name}, on the command line with --custom-objects "
            f"{' '.join(unknown)}, where MODULE is the Python module that defines the class."
        )


def _uncompiled(part: Any) -> Any:
    """Return a configuration without how its model, and the models inside it, were compiled."""
    if isinstance(part, list):
        return [_uncompiled(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    drops = "compile_config" if "class_name" in part else None
    return {key: _uncompiled(inner) for key, inner in part.items() if key != drops}


@contextlib.contextmanager
def _holding(path: pathlib.Path, config: Any, before: Any) -> Iterator[pathlib.Path]:
    """Give a file that holds `config`: the file itself where that is what it holds.

    With `compile=False` Keras still compiles the models inside the model, and fails for a loss or
    metric that is not registered.
    """
    if config == before:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = pathlib.Path(folder) / "model.keras"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(copied, "w") as target:
            for name in source.namelist():
                held = json.dumps(config) if name == _CONFIG else source.read(name)
                target.writestr(name, held)
        yield copied


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a configuration."""
    stack = [config]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if isinstance(part.get("class_name"), str):
                yield part
            stack += reversed(part.values())
        elif isinstance(part, list):
            stack += reversed(part)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Turn whatever h5py, zipfile, JSON and Keras raise into an error that names the file."""
    try:
        yield
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        text = str(error).strip()
        if isinstance(error, ValueError) and text.startswith(f"'{path}'"):
            raise
        reason = " ".join(text.split())[:400] or type(error).__name__
        raise ValueError(
            f"'{path}' cannot be loaded as a Keras model: it is damaged, or of another kind. "
            f"({reason})"
        ) from error
