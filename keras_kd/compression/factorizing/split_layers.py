"""Rebuilding a Keras 3 model with some of its layers written as two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.compression.factorizing.factorization import Factorization
from keras_kd.models.copying import clone_uncompiled, copy_layer, copy_state
from keras_kd.models.graph import is_graph, sublayers

_LINEAR = {
    "activation": "linear",
    "use_bias": False,
    "bias_regularizer": None,
    "bias_constraint": None,
    "activity_regularizer": None,
}


def split_layers(
    model: keras.Model, plan: Mapping[str, tuple[Factorization, int]]
) -> tuple[keras.Model, dict[str, tuple[str, ...]]]:
    """Rebuild a functional or sequential model with some layers written as two.

    The second layer keeps the name, the bias and the activation, so that its output is where it
    was; the first is linear and is called `<name>_low_rank`. Nested models are rebuilt, shared
    layers stay shared, all other weights are copied.

    Args:
        model: A built model; it is not changed.
        plan: Way and rank by the path of the layer.

    Returns:
        The new model, and the paths of the two layers by the path of the one.
    """
    splitter = _Splitter(plan)
    rebuilt = splitter.rebuild(model, prefix="")
    splitter.set_weights()
    return rebuilt, splitter.parts


class _Splitter:
    def __init__(self, plan: Mapping[str, tuple[Factorization, int]]) -> None:
        self.plan = plan
        self.parts: dict[str, tuple[str, ...]] = {}
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._firsts: dict[int, Any] = {}
        self._factors: list[tuple[Any, Any, Any, Factorization, int]] = []

    def rebuild(self, model: Any, prefix: str) -> Any:
        names = {layer.name for layer in model.layers}

        def clone(layer: Any) -> Any:
            return self._clone(layer, prefix, names)

        if not isinstance(model, keras.Sequential):
            return clone_uncompiled(model, clone, self._call)
        layers: list[Any] = []
        inputs = sublayers(model)[0]
        if isinstance(inputs, keras.layers.InputLayer):
            layers.append(
                keras.Input(batch_shape=inputs.batch_shape, dtype=inputs.dtype, name=inputs.name)
            )
        for layer in model.layers:
            copied = clone(layer)
            layers += [self._firsts[id(copied)]] if id(copied) in self._firsts else []
            layers.append(copied)
        return keras.Sequential(layers, name=model.name, trainable=model.trainable)

    def set_weights(self) -> None:
        for original, copied in self._copies.values():
            whole = id(copied) not in self._firsts and not is_graph(copied)
            if whole and isinstance(original, keras.layers.Layer):
                copy_state(original, copied)
        for layer, first, second, way, rank in self._factors:
            for part, kernel in zip((first, second), way.make(rank), strict=True):
                part.kernel.assign(kernel)
            if layer.bias is not None:
                second.bias.assign(layer.bias)

    def _clone(self, layer: Any, prefix: str, names: set[str]) -> Any:
        path = prefix + layer.name
        if id(layer) in self._copies:
            copied = self._copies[id(layer)][1]
            if (first := self._firsts.get(id(copied))) is not None:
                self.parts[path] = (prefix + first.name, path)
            return copied
        if isinstance(layer, keras.Model) and is_graph(layer):
            copied = self.rebuild(layer, f"{path}/")
        elif path in self.plan:
            copied = self._split(layer, path, names)
        else:
            copied = copy_layer(layer)
        self._copies[id(layer)] = (layer, copied)
        return copied

    def _split(self, layer: Any, path: str, names: set[str]) -> Any:
        way, rank = self.plan[path]
        config = layer.get_config()
        first_name = f"{layer.name}_low_rank"
        while first_name in names:
            first_name += "_"
        first_changes, second_changes = way.configs(rank)
        known = {key: value for key, value in _LINEAR.items() if key in config}
        first = type(layer).from_config({**config, **known, **first_changes, "name": first_name})
        second = type(layer).from_config({**config, **second_changes})
        self._firsts[id(second)] = first
        self._factors.append((layer, first, second, way, rank))
        self.parts[path] = (f"{path[: -len(layer.name)]}{first_name}", path)
        return second

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        first = self._firsts.get(id(layer))
        return layer(*args, **kwargs) if first is None else layer(first(*args), **kwargs)
