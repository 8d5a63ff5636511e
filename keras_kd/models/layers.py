"""Questions asked of the layers and weights of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.models.calls import first_free
from keras_kd.models.copying import uncompiled
from keras_kd.models.graph import graph_of, is_graph

# What a configuration holds beside the model.
_NOT_OF_THE_MODEL = ("seed", "build_config", "compile_config")


def hash_of_weights(model: Any) -> str | None:
    """Return a hash of the values of a model's weights, `None` where it has none."""
    weights = list(getattr(model, "weights", None) or [])
    if not weights:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for weight in weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape};".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_of_architecture(model: Any) -> str | None:
    """Return a hash of a model's configuration, whatever its layers are called.

    Neither seeds, which layers draw where they are given none, nor `compile` count.

    Args:
        model: A model.

    Returns:
        The hash, or `None` for what has no configuration, such as a function.
    """
    try:
        with uncompiled(model):
            config = [type(model).__name__, model.get_config()]
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    names: dict[str, str] = {}

    def collect(part: Any) -> None:
        if isinstance(part, Mapping):
            if isinstance(name := part.get("name"), str):
                names.setdefault(name, f"#{len(names)}")
            for value in part.values():
                collect(value)
        elif isinstance(part, (list, tuple)):
            for value in part:
                collect(value)

    def renamed(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: renamed(part[key]) for key in part if key not in _NOT_OF_THE_MODEL}
        if isinstance(part, (list, tuple)):
            return [renamed(value) for value in part]
        return names.get(part, part) if isinstance(part, str) else part

    collect(config)
    text = json.dumps(renamed(config), sort_keys=True, default=_as_json)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _as_json(value: Any) -> Any:
    """Return an array's values; of other objects what is the same in every process."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def identity_of(model: Any) -> dict[str, str | None]:
    """Return the hashes by which a model is known: of its weights and of its architecture."""
    return {"weights": hash_of_weights(model), "architecture": hash_of_architecture(model)}


def paths_above(path: str) -> list[str]:
    """Return the path of a layer and those of the layers that it is inside of, outwards."""
    return [path.rsplit("/", n)[0] for n in range(path.count("/") + 1)]


def leaf_layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer of every layer of a Keras 3 model, nested models opened.

    Where a subclassed model has several layers of one name, their paths are numbered.
    """
    leaves: list[tuple[str, Any]] = []
    names: set[str] = set()
    for layer in model.layers:
        name = first_free(layer.name, names)
        names.add(name)
        path = prefix + name
        if isinstance(layer, keras.Model):
            leaves += leaf_layers(layer, f"{path}/")
        else:
            leaves.append((path, layer))
    return leaves


def leaf_operations(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer (or operation) of all that a model is made of, without inputs."""
    parts: list[tuple[str, Any]] = []
    graph = graph_of(model) if is_graph(model) else model
    for layer in graph.operations if is_graph(model) else model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model):
            parts += leaf_operations(layer, f"{path}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            parts.append((path, layer))
    return parts


_ONLY_IN_TRAINING = frozenset(
    {
        "ActivityRegularization", "AlphaDropout", "AugMix", "CutMix", "Dropout", "GaussianDropout",
        "GaussianNoise", "Identity", "MixUp", "RandAugment", "SpatialDropout1D",
        "SpatialDropout2D", "SpatialDropout3D",
    }
)  # fmt: skip


def acts_in_training_only(class_name: str) -> bool:
    """Whether layers of a class of Keras return at inference what they are given.

    Args:
        class_name: Name of the class.
    """
    # At inference RandomCrop takes the middle.
    is_augmentation = class_name.startswith("Random") and class_name != "RandomCrop"
    return is_augmentation or class_name in _ONLY_IN_TRAINING
