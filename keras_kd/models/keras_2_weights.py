"""The weights in HDF5 files of Keras 2, put into models of Keras 3.

By the names of layers, and inside a nested model in the order of its layers in the file: Keras 3's
own order of them is another where masks are part of the graph.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np


def load_weights(model: keras.Model, config: Mapping[str, Any], path: pathlib.Path) -> None:
    """Load the weights of a file of Keras 2.

    Args:
        model: The model, built.
        config: The configuration of the model in the file.
        path: The HDF5 file.

    Raises:
        ValueError: If the file does not hold the weights of every layer; names the layer.
    """
    import h5py

    parts = _parts_of(config["config"])
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        found = {name: _arrays_of(group[name]) for name in _texts_of(group, "layer_names")}
        if _texts_of(group.get("top_level_model_weights", {}), "weight_names"):
            raise ValueError("it holds weights that are of none of its layers")
    layers = {layer.name: layer for layer in model.layers}
    for name in [*layers, *(name for name in found if name not in layers)]:
        arrays = found.get(name, [])
        weights = _weights_of(layers[name], parts.get(name, {})) if name in layers else []
        if not weights and name in layers and hasattr(layers[name], "adapt"):
            continue  # its table stands in the configuration
        shapes = [tuple(weight.shape) for weight in weights]
        if shapes != [array.shape for array in arrays]:
            raise ValueError(
                f"its layer '{name}' has weights of the shapes {shapes} in Keras 3, but the file "
                f"holds {[array.shape for array in arrays]}"
            )
        for weight, array in zip(weights, arrays, strict=True):
            weight.assign(array)


def _parts_of(config: Any) -> dict[str, Any]:
    """Return the layers of a model's configuration by name, in their order."""
    layers = config if isinstance(config, list) else config.get("layers", [])
    return {layer.get("name") or layer["config"]["name"]: layer for layer in layers}


def _weights_of(layer: Any, part: Mapping[str, Any]) -> list[Any]:
    leaves = list(_leaves_of(layer, part))
    trained = [weight for leaf in leaves for weight in leaf.trainable_weights]
    return trained + [weight for leaf in leaves for weight in leaf.non_trainable_weights]


def _leaves_of(layer: Any, part: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the layers in a layer or model in the order of its configuration in the file."""
    config = part.get("config", {})
    if isinstance(layer, keras.layers.TimeDistributed):
        yield from _leaves_of(layer.layer, config["layer"])
    elif isinstance(layer, keras.Model) and (parts := _parts_of(config)):
        layers = {inner.name: inner for inner in layer.layers}  # a Sequential hides its input
        for name in (name for name in parts if name in layers):
            yield from _leaves_of(layers[name], parts[name])
    else:
        yield layer


def _arrays_of(group: Any) -> list[np.ndarray]:
    return [np.asarray(group[name]) for name in _texts_of(group, "weight_names")]


def _texts_of(group: Any, name: str) -> list[str]:
    """Return a list of texts, which Keras splits where it is too long for one attribute."""
    attributes = getattr(group, "attrs", {})
    if name in attributes:
        pieces = [attributes[name]]
    else:
        pieces = []
        while f"{name}{len(pieces)}" in attributes:
            pieces.append(attributes[f"{name}{len(pieces)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for p in pieces for text in p]
