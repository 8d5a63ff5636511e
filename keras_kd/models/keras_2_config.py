"""Configurations of Keras 2, translated into those of Keras 3.

An argument that Keras 3 does not have is left out where it has no effect, and named in an error
where it has one.
"""

from __future__ import annotations

import copy
import inspect
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_kd.models.keras_2_activation import hard_sigmoid_of_keras_2
from keras_kd.models.keras_2_masks import MASKED_AS_IN_KERAS_2, has_own_masks
from keras_kd.models.keras_2_operations import FUNCTIONS, OPERATION_LAYERS, translate_nodes
from keras_kd.system.arguments import constructor_arguments
from keras_kd.system.shown_text import first_line

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
    "vocabulary_size": (...,),  # of the vocabulary that stands beside it
    "virtual_batch_size": (None,),
}
# What the base classes of layers take without naming it.
_TAKEN = {"batch_shape", "dtype", "input_shape", "name", "trainable"}
_RENAMED = {
    "InputLayer": {"batch_input_shape": "batch_shape"},
    "LeakyReLU": {"alpha": "negative_slope"},
    "ThresholdedReLU": {"theta": "threshold"},
}
_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Functional": "Model",
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
}
_MODELS = ("Model", "Sequential")
# Classes that compute other values in Keras 3.
_OTHERWISE = {"RandomCrop": "Keras 3's gives at inference the whole image, Keras 2's its middle"}
# The functions of Keras 2 and TensorFlow that Keras 3 has, by the names that Keras 2 writes.
_ACTIVATIONS = {
    **{name: name for name in (
        "elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu",
        "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh",
    )},
    "exp": "exponential",
    "hard_sigmoid": hard_sigmoid_of_keras_2,
    "log_softmax_v2": "log_softmax",
    "softmax_v2": "softmax",
}  # fmt: skip
# Among them are classes that are called like layers, such as the initializer `Identity`.
_NOT_LAYERS = ("_constraint", "_initializer", "_regularizer")


def objects_in(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the layers, models and other objects in a configuration."""
    if isinstance(config, Mapping):
        if isinstance(config.get("class_name"), str):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from objects_in(part)


def inner_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of an object in a configuration."""
    inner = part.get("config")
    return inner if isinstance(inner, Mapping) else {}


class Translation:
    """Translates configurations of one file.

    Args:
        path: The file, for messages.
        config: The configuration of its model.
        custom_objects: Classes and functions that it names, by name.
    """

    def __init__(
        self, path: pathlib.Path, config: Mapping[str, Any], custom_objects: Mapping[str, Any]
    ) -> None:
        self._path = path
        self._own = {**keras.saving.get_custom_objects(), **custom_objects}
        given = '"attention_mask"' in json.dumps(config)
        self._masked = given or any(map(self._may_mask, objects_in(config)))

    def _may_mask(self, part: Mapping[str, Any]) -> bool:
        name = part["class_name"]
        zero = bool(inner_of(part).get("mask_zero"))
        return name == "Masking" or zero or has_own_masks(self._own.get(name))

    def of(self, layer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of a layer or model as Keras 3 writes it.

        Keras 3 reads the form of Keras 2 too, but leaves out every `axis` of several numbers and
        takes texts such as "dot" for functions.

        Raises:
            ValueError: If something in it has no equal in Keras 3; names the layer.
        """
        old = layer["class_name"]
        name = _CLASSES.get(old, old)
        config = copy.deepcopy(layer["config"])
        if old in self._own:
            return _entry(layer, old, self._with_functions(config))
        if isinstance(config, list):  # a Sequential of the oldest files
            config = {"layers": config, "name": layer.get("name", "sequential")}
        if name in _MODELS:
            if "output_layers" in config:
                translate_nodes(config)
            first = config["layers"][0] if config["layers"] else {"class_name": None}
            shape = inner_of(first).get("batch_input_shape")
            if name == "Sequential" and first["class_name"] != "InputLayer" and shape:
                inputs = {"batch_input_shape": shape, "name": f"{config['name']}_input"}
                config["layers"].insert(0, {"class_name": "InputLayer", "config": inputs})
            config["layers"] = [self.of(part) for part in config["layers"]]
            return _entry(layer, name, config, "keras")
        if name in OPERATION_LAYERS:
            if config.get("function") not in FUNCTIONS:
                raise self._error(
                    config,
                    f"calls TensorFlow's function `{config.get('function')}`, for which no "
                    "operation of Keras 3 is known here",
                )
            return _entry(layer, name, config)
        config = self._arguments(name, old, config)
        kind = MASKED_AS_IN_KERAS_2.get(name) if self._masked else None
        if kind is not None:
            return _entry(layer, keras.saving.get_registered_name(kind), config)
        entry = _entry(layer, name, config, "keras.layers")
        if not any(part["class_name"] in _MODELS for part in objects_in(config)):
            self._check(entry)
        return entry

    def _arguments(self, name: str, old: str, config: dict[str, Any]) -> dict[str, Any]:
        kind = getattr(keras.layers, name, None)
        if kind is None:
            raise self._error(config, f"is of the class {name}, which Keras 3 does not have")
        if name in _OTHERWISE:
            raise self._error(config, f"is of the class {name}: {_OTHERWISE[name]}")
        taken = _arguments_of(kind)
        found = {}
        for key, value in config.items():
            key = _RENAMED.get(old, {}).get(key, key)
            if key in taken:
                found[key] = self._value(key, value, config)
            elif not _has_no_effect(key, value):
                raise self._error(
                    config, f"has {key}={value!r}, but Keras 3's {name} has no argument `{key}`"
                )
        if isinstance(found.get("axis"), list) and len(found["axis"]) == 1:
            (found["axis"],) = found["axis"]
        return found

    def _value(self, key: str, value: Any, config: Mapping[str, Any]) -> Any:
        if key == "dtype" and isinstance(value, Mapping):
            return value["config"].get("name", value["config"])
        if key.endswith(_NOT_LAYERS):
            return value
        if self._is_layer(value):
            translated = self.of(value)
            if key.endswith("activation"):  # which Keras 3 does not make from a configuration
                return keras.saving.deserialize_keras_object(translated, self._own)
            return translated
        if key.endswith("activation") and value is not None:
            return self._activation(key, value, config)
        if isinstance(value, list):
            return [self._value("", part, config) for part in value]
        return value

    def _is_layer(self, value: Any) -> bool:
        name = value.get("class_name") if isinstance(value, Mapping) else None
        known = (*_MODELS, *_CLASSES, *self._own)
        return name is not None and (name in known or hasattr(keras.layers, str(name)))

    def _activation(self, key: str, value: Any, config: Mapping[str, Any]) -> Any:
        name = value.get("config") if isinstance(value, Mapping) else value
        if name in self._own:
            return self._own[name]
        if name not in _ACTIVATIONS:
            raise self._error(
                config, f"has {key}=`{name}`, a function which Keras 3 has no activation for"
            )
        return _ACTIVATIONS[name]

    def _with_functions(self, config: Any) -> Any:
        """Return the configuration of a class that was passed, with functions that were passed."""
        functions = {k: f for k, f in self._own.items() if inspect.isfunction(f)}
        if not isinstance(config, dict):
            return config
        return {
            key: functions.get(value, value) if isinstance(value, str) and key != "name" else value
            for key, value in config.items()
        }

    def _check(self, entry: dict[str, Any]) -> None:
        try:
            keras.saving.deserialize_keras_object(copy.deepcopy(entry), self._own)
        except Exception as error:  # whatever a constructor raises
            first: BaseException = error
            while first.__context__ is not None:  # Keras puts whole configurations around it
                first = first.__context__
            reason = f"{entry['class_name']}: {first_line(first).rstrip('.')}"
            raise self._error(entry["config"], f"is refused by Keras 3's {reason}") from error

    def _error(self, config: Mapping[str, Any], what: str) -> ValueError:
        return ValueError(
            f"'{self._path}' is a file of Keras 2, and its layer '{config.get('name')}' {what}. "
            "Save a model without it."
        )


def _entry(
    layer: Mapping[str, Any], name: str, config: Any, module: str | None = None
) -> dict[str, Any]:
    """Return a configuration in Keras 3's form; without a module its class is a registered one."""
    kept = {key: layer[key] for key in ("name", "inbound_nodes") if key in layer}
    registered = name if module is None else None
    return {
        **kept, "module": module, "class_name": name, "config": config,
        "registered_name": registered,
    }  # fmt: skip


def _has_no_effect(key: str, value: Any) -> bool:
    usual = _WITHOUT_EFFECT.get(key, ())
    return ... in usual or value in usual


def _arguments_of(kind: type) -> set[str]:
    found = set(constructor_arguments(kind))
    # What a layer passes on reaches the base class of all.
    return found | _TAKEN if "autocast" in found else found
