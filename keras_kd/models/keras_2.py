"""Files of Keras 2 (`tf.keras`), loaded as models of Keras 3 with the same outputs.

The configuration is translated, in a copy of the file. An argument that Keras 3 does not have is
left out where it has no effect, and named in an error where it has one.
"""

from __future__ import annotations

import copy
import inspect
import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.models.keras_2_activation import hard_sigmoid_of_keras_2
from keras_kd.models.keras_2_operations import (
    FUNCTIONS,
    OPERATION_LAYERS,
    inline_operations,
    translate_nodes,
)
from keras_kd.system.arguments import constructor_arguments
from keras_kd.system.quiet import capture_output

# Values with which an argument that Keras 3 does not have changes nothing. `...` stands for any.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "batch_input_shape": (...,),
    "fused": (...,),
    "groups": (1,),
    "implementation": (...,),
    "input_dim": (None,),
    "input_length": (...,),
    "kernel_constraint": (None,),
    "kernel_initializer": (...,),
    "kernel_regularizer": (None,),
    "key_shape": (...,),
    "noise_shape": (None,),
    "optional": (False,),
    "query_shape": (...,),
    "ragged": (False, None),
    "renorm": (False,),
    "rng_type": (...,),
    "softmax_robust_masking": (False,),
    "sparse": (False, None),
    "time_major": (False,),
    "trainable": (...,),
    "value_shape": (...,),
    "vocabulary_size": (None,),
    "virtual_batch_size": (None,),
}
# What the base classes of layers take without naming it.
_TAKEN = {"batch_input_shape", "batch_shape", "dtype", "input_shape", "name", "trainable"}
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}, "ThresholdedReLU": {"theta": "threshold"}}
_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Model": "Functional",
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
}
_MODELS = ("Functional", "Sequential")


def open_keras_2(
    path: pathlib.Path, config: dict[str, Any], custom_objects: Mapping[str, Any], safe_mode: bool
) -> keras.Model:
    """Return the model of a file that Keras 2 wrote.

    Args:
        path: The `.h5` or `.keras` file.
        config: The configuration in it.
        custom_objects: Classes and functions that it names, by name.
        safe_mode: Whether code in the file is refused.

    Raises:
        ValueError: If something in it has no equal in Keras 3; names the layer and the argument.
    """
    with tempfile.TemporaryDirectory() as folder:
        copied = pathlib.Path(folder) / "model.h5"
        if path.suffix == ".keras":
            config = _as_hdf5(path, copied, custom_objects, safe_mode)
        else:
            shutil.copyfile(path, copied)
        translated = _Translation(path, custom_objects).of(config)
        import h5py

        with h5py.File(copied, "r+") as file:
            file.attrs["model_config"] = json.dumps(translated)
        model = keras.saving.load_model(
            copied,
            custom_objects={**OPERATION_LAYERS, **custom_objects},
            compile=False,
            safe_mode=safe_mode,
        )
        if len({layer.name for layer in model.layers}) == len(model.layers):
            # Layers of one shape may come in another order.
            model.load_weights(copied, by_name=True)
    _finish_normalizations(model)
    return inline_operations(model)


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


class _Translation:
    """Translates configurations of one file."""

    def __init__(self, path: pathlib.Path, custom_objects: Mapping[str, Any]) -> None:
        self._path = path
        self._own = {**keras.saving.get_custom_objects(), **custom_objects}

    def of(self, layer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of a layer or model as Keras 3 takes it."""
        name = _CLASSES.get(layer["class_name"], layer["class_name"])
        result = {**layer, "class_name": name}
        result.pop("build_config", None)  # Keras 3 builds by calling
        config = copy.deepcopy(layer["config"])
        if name in self._own:
            return result
        if isinstance(config, list):  # a Sequential of the oldest files
            config = {"layers": config}
        if name in _MODELS:
            if "output_layers" in config:
                translate_nodes(config)
            config["layers"] = [self.of(part) for part in config["layers"]]
        elif name in OPERATION_LAYERS:
            if config.get("function") not in FUNCTIONS:
                raise ValueError(
                    f"'{self._path}' is a file of Keras 2, and its layer '{config.get('name')}' "
                    f"calls TensorFlow's function `{config.get('function')}`, for which no "
                    "operation of Keras 3 is known here. Save a model without it."
                )
        else:
            config = self._arguments(name, layer["class_name"], config)
        return {**result, "config": config}

    def _arguments(self, name: str, old: str, config: dict[str, Any]) -> dict[str, Any]:
        kind = getattr(keras.layers, name, None)
        if kind is None:
            raise ValueError(
                f"'{self._path}' is a file of Keras 2, and its layer '{config.get('name')}' is of "
                f"the class {name}, which Keras 3 does not have. Save a model without it."
            )
        taken = _arguments_of(kind)
        usual = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
        found = {}
        for key, value in config.items():
            key = _RENAMED.get(old, {}).get(key, key)
            if isinstance(value, str) and value == usual.get(key):
                continue  # some texts, such as "dot", would be taken for functions
            if key in taken:
                found[key] = self._value(key, value)
            elif not _has_no_effect(key, value):
                raise ValueError(
                    f"'{self._path}' is a file of Keras 2, and Keras 3's {name} has no argument "
                    f"`{key}`. Received: {key}={value!r} in the layer '{config.get('name')}'. Save "
                    "a model without it."
                )
        if name == "BatchNormalization" and isinstance(found.get("axis"), list):
            (found["axis"],) = found["axis"]
        return found

    def _value(self, key: str, value: Any) -> Any:
        if key.endswith("activation") and _function_name(value) == "hard_sigmoid":
            return keras.saving.serialize_keras_object(hard_sigmoid_of_keras_2)
        if key == "dtype" and isinstance(value, Mapping):
            return value["config"].get("name", value["config"])
        if isinstance(value, Mapping) and "class_name" in value:
            inner = str(value["class_name"])
            if inner in _MODELS or hasattr(keras.layers, inner) or inner in _CLASSES:
                return self.of(value)
        if isinstance(value, list):
            return [self._value("", part) for part in value]
        return value


def _has_no_effect(key: str, value: Any) -> bool:
    usual = _WITHOUT_EFFECT.get(key, ())
    return ... in usual or value in usual


def _function_name(value: Any) -> Any:
    return value.get("config") if isinstance(value, Mapping) else value


def _arguments_of(kind: type) -> set[str]:
    found = set(constructor_arguments(kind))
    # What a layer passes on reaches the base class of all.
    return found | _TAKEN if "autocast" in found else found


def _finish_normalizations(model: Any) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()
        elif hasattr(layer, "layers"):
            _finish_normalizations(layer)
