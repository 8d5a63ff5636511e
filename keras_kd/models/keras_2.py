"""Files of Keras 2 (`tf.keras`), loaded as models of Keras 3 with the same outputs."""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.models.graph import flat_layers
from keras_kd.models.keras_2_config import Translation, inner_of, objects_in
from keras_kd.models.keras_2_masks import restore_layers
from keras_kd.models.keras_2_operations import OPERATION_LAYERS, inline_operations
from keras_kd.models.keras_2_weights import load_weights
from keras_kd.system.quiet import capture_output

_FOUND_BY_ADAPT = {
    "Discretization": "bin_boundaries",
    "IntegerLookup": "vocabulary",
    "StringLookup": "vocabulary",
    "TextVectorization": "vocabulary",
}
_LAST_NUMBER = 10_000


def open_keras_2(
    path: pathlib.Path,
    file: pathlib.Path,
    config: dict[str, Any],
    custom_objects: Mapping[str, Any],
    safe_mode: bool,
) -> keras.Model:
    """Return the model of a file that Keras 2 wrote.

    Args:
        path: The `.h5` or `.keras` file, which errors name.
        file: The file to read, the same or a copy.
        config: The configuration in it.
        custom_objects: Classes and functions that it names, by name.
        safe_mode: Whether code in the file is refused.

    Raises:
        ValueError: If something in it has no equal in Keras 3; names the layer and the argument.
    """
    _check_adapted(path, config)
    with tempfile.TemporaryDirectory() as folder:
        copied = pathlib.Path(folder) / "model.h5"
        if path.suffix == ".keras":
            config = _as_hdf5(file, copied, custom_objects, safe_mode)
        else:
            shutil.copyfile(file, copied)
        translated = Translation(path, config, custom_objects).of(config)
        _reserve_names(config)
        try:
            model = keras.saving.deserialize_keras_object(
                translated, {**OPERATION_LAYERS, **custom_objects}, safe_mode=safe_mode
            )
            load_weights(model, config, copied)
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # Keras, or code of a class that was passed, may raise anything
            reason = " ".join(str(error).split())[:400]
            raise ValueError(
                f"'{path}' is a file of Keras 2, and Keras 3 cannot make its model: {reason}"
            ) from error
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()
    model = inline_operations(model)
    restore_layers(model)
    return model


def _as_hdf5(
    path: pathlib.Path, copied: pathlib.Path, custom_objects: Mapping[str, Any], safe_mode: bool
) -> dict[str, Any]:
    """Write a `.keras` file of Keras 2 as HDF5, by Keras 2 itself; return its configuration."""
    import h5py
    import tf_keras

    with capture_output():
        model = tf_keras.models.load_model(
            path, custom_objects=dict(custom_objects), compile=False, safe_mode=safe_mode
        )
        model.save(copied, save_format="h5", include_optimizer=False)
    with h5py.File(copied, "r") as file:
        config: dict[str, Any] = json.loads(file.attrs["model_config"])
    return config


def _check_adapted(path: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Refuse layers whose configuration lacks what `adapt` found."""
    for part in objects_in(config):
        inner, argument = inner_of(part), _FOUND_BY_ADAPT.get(part["class_name"])
        if argument is not None and inner.get(argument) is None:
            raise ValueError(
                f"'{path}' is a file of Keras 2, and what its layer '{inner.get('name')}' found by "
                f"`adapt` cannot be read from it. Make the layer with {argument}=[...] and save "
                "the model again."
            )


def _reserve_names(config: Mapping[str, Any]) -> None:
    """Keep Keras from giving the name of a layer in a file to an operation that it names itself."""
    last: dict[str, int] = {}
    for part in objects_in(config):
        name = str(inner_of(part).get("name"))
        begin, _, number = name.rpartition("_")
        if not number.isdecimal():
            begin, number = name, "0"
        if hasattr(keras.ops, begin):
            last[begin] = max(last.get(begin, 0), min(int(number), _LAST_NUMBER))
    for begin, taken in last.items():
        while keras.backend.get_uid(begin) <= taken:
            pass
