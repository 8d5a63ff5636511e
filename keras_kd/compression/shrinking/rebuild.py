"""Building the smaller model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.selection import Selection
from keras_kd.compression.shrinking.walk import needed_nodes
from keras_kd.models.copying import copy_adapted, copy_layer, set_trainable, trainable_of
from keras_kd.models.graph import graph_of, input_structure, is_graph, origin_of, output_structure


def rebuild(
    model: keras.Model, analysis: Analysis, selection: Selection, bypassed: Mapping[int, Any]
) -> keras.Model:
    """Return a smaller model with the weights that remain.

    Args:
        model: The model; it is left as it is.
        analysis: Its analysis.
        selection: What remains.
        bypassed: What replaces the outputs of dropped blocks, as in `analyze`.

    Returns:
        A functional model, or a sequential one where `model` is. Names of layers are the same.

    Raises:
        ValueError: If a layer cannot be made again from its configuration.
    """
    return _Rebuilder(analysis, selection, bypassed).run(model)


class _Rebuilder:
    def __init__(
        self, analysis: Analysis, selection: Selection, bypassed: Mapping[int, Any]
    ) -> None:
        self._analysis = analysis
        self._selection = selection
        self._bypassed = bypassed
        self._made: dict[int, tuple[Any, Any]] = {}

    def run(self, model: Any) -> Any:
        new = self._model(model)
        for old, made in self._made.values():
            is_nested = isinstance(old, keras.Model) and is_graph(old)
            if isinstance(old, keras.layers.Layer) and not is_nested:
                self._copy_weights(old, made)
        return new

    def _model(self, model: Any) -> Any:
        graph = graph_of(model)
        inputs = [self._input(tensor) for tensor in graph.inputs]
        nodes = needed_nodes(graph, self._bypassed)
        if isinstance(model, keras.Sequential):
            kept = [n.operation for n in nodes if id(n) not in self._bypassed]
            layers = [self._operation(operation) for operation in kept]
            return keras.Sequential([*inputs, *layers], name=model.name)
        values = {id(t): value for t, value in zip(graph.inputs, inputs, strict=True)}
        for node in nodes:
            if id(node) in self._bypassed:
                values[id(node.outputs[0])] = values[id(self._bypassed[id(node)])]
                continue
            args, kwargs = node.arguments.fill_in(values)
            rewrite = self._analysis.arguments.get(id(node))
            if rewrite is not None:
                args, kwargs = rewrite(args, self._selection.size), {}
            outputs = self._operation(node.operation)(*args, **kwargs)
            flat = keras.tree.flatten(outputs)
            values.update({id(t): value for t, value in zip(node.outputs, flat, strict=True)})
        made = [values[id(tensor)] for tensor in graph.outputs]
        return keras.Model(
            keras.tree.pack_sequence_as(input_structure(graph), inputs),
            keras.tree.pack_sequence_as(output_structure(graph), made),
            name=model.name,
        )

    def _input(self, tensor: Any) -> Any:
        layer = origin_of(tensor).operation
        config = layer.get_config()
        shape = tuple(tensor.shape)
        axes = self._analysis.inputs.get(id(tensor), (None,) * len(shape))
        shape = tuple(
            n if axis is None else self._selection.size(axis)
            for n, axis in zip(shape, axes, strict=True)
        )
        config.pop("shape", None)
        config["batch_shape"] = shape
        return type(layer).from_config(config).output

    def _operation(self, operation: Any) -> Any:
        if id(operation) not in self._made:
            self._made[id(operation)] = (operation, self._copy(operation))
        return self._made[id(operation)][1]

    def _copy(self, operation: Any) -> Any:
        if isinstance(operation, keras.Model) and is_graph(operation):
            return self._model(operation)
        changes = {
            key: change(self._selection.size)
            for key, change in self._analysis.configs.get(id(operation), {}).items()
        }
        try:
            copied = copy_layer(operation, **changes)
        except ValueError:
            if not isinstance(operation, keras.layers.Layer) and not changes:
                return operation  # an operation without a configuration holds nothing of its own
            raise
        copied.name = operation.name
        return copied

    def _copy_weights(self, old: Any, made: Any) -> None:
        if len(old.weights) != len(made.weights):
            raise ValueError(
                f"Layer '{old.name}' ({type(old).__name__}) has {len(old.weights)} weights, but "
                f"made again from its configuration it has {len(made.weights)}."
            )
        for source, target in zip(old.weights, made.weights, strict=True):
            value = keras.ops.convert_to_numpy(source.value)
            known = self._analysis.weights.get(id(source))
            if known is not None:
                for position, axis in enumerate(known.axes):
                    if axis is not None:
                        kept = np.flatnonzero(self._selection.kept[axis])
                        value = value.take(kept, axis=position)
                if known.scale is not None:
                    value = (value * known.scale(self._selection.size)).astype(value.dtype)
            target.assign(value)
        set_trainable(made, trainable_of(old))
        copy_adapted(old, made)
