"""The bridge from Keras 3 to `tf_keras`, on which TF-MOT works."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.compression.tf_keras_bridge.same_layers import same_layers
from keras_kd.compression.tf_keras_bridge.verification import verify_bridge
from keras_kd.compression.tfmot import import_tf_keras
from keras_kd.models.copying import copy_state, described
from keras_kd.models.features import find_layer
from keras_kd.models.graph import graph_of, ordered_nodes
from keras_kd.models.graph import is_graph as is_graph
from keras_kd.models.layer_plan import RefusedLayers


@dataclasses.dataclass(frozen=True)
class BridgedModel:
    """A Keras 3 model rebuilt in `tf_keras`.

    Attributes:
        model: The `tf_keras` model, functional and flat.
        layer_names: From the path of every Keras 3 layer (`"backbone/block1"` inside a nested
            model) to the name of the `tf_keras` layer that returns the same output.
        weight_layers: From the path to the names of the `tf_keras` layers that hold its weights.
    """

    model: Any
    layer_names: Mapping[str, str]
    weight_layers: Mapping[str, tuple[str, ...]]


def check_bridgeable(model: keras.Model) -> None:
    """Refuse a model that cannot be rebuilt.

    Raises:
        ValueError: If the model, or a model nested in it, is neither functional nor sequential,
            or is not built.
        RefusedLayers: If layers have no equal in `tf_keras` and cannot be made again from their
            configuration; every one of them is named.
    """
    _check_has_graph(model)
    refused = _Builder().refused(graph_of(model), "")
    if refused:
        raise RefusedLayers(refused)


def _check_has_graph(model: keras.Model) -> None:
    if not is_graph(model):
        raise ValueError(
            f"Model '{model.name}' is a {type(model).__name__}, a subclassed model: it has no "
            "graph of layers that TF-MOT could work on. Write it as a functional model "
            "(keras.Model(inputs, outputs)), or leave this stage out; Prune takes it as it is."
        )
    if not model.inputs:
        raise ValueError(
            f"Model '{model.name}' has no input shape yet. Begin it with keras.Input(shape), or "
            "call it on a batch first."
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model) and is_graph(layer):
            _check_has_graph(layer)


def to_tf_keras(model: keras.Model) -> BridgedModel:
    """Rebuild a functional or sequential Keras 3 model in `tf_keras`, with its weights.

    The graph is walked node by node. Nested models are inlined, shared layers stay shared, and
    what has no equal in `tf_keras` (operators, newer layers, layers of one's own) runs in a
    `HostedLayer`. Everything computes in float32.

    Args:
        model: A built functional or sequential model.

    Returns:
        A `BridgedModel`. Its outputs were compared to the original's on random inputs.

    Raises:
        ValueError: If a layer cannot be rebuilt, or the outputs differ by more than 1e-5 of their
            size and by more than four times what a rounding of the inputs changes.

    Example:

    >>> bridged = to_tf_keras(keras.applications.MobileNetV2(weights=None))
    >>> bridged.model.predict(images)
    """
    check_bridgeable(model)
    model = _in_float32(model)
    builder = _Builder()
    bridged = builder.build(model)
    verify_bridge(model, bridged)
    return BridgedModel(bridged, builder.layer_names, builder.weight_layers)


def copy_back(bridged: BridgedModel, model: keras.Model) -> None:
    """Copy the weights of a bridged model, trained meanwhile, back to where they came from.

    Args:
        bridged: What `to_tf_keras(model)` returned.
        model: The Keras 3 model; its weights are set.
    """
    layers = {layer.name: layer for layer in bridged.model.layers}
    for path, names in bridged.weight_layers.items():
        layer = find_layer(model, path)
        holders = [layers[name] for name in names]
        if hasattr(holders[0], "copy_weights"):
            targets = [*layer.trainable_variables, *layer.non_trainable_variables]
        else:
            targets = operation_weights(layer)
        values = [weight for holder in holders for weight in holder.weights]
        for target, value in zip(targets, values, strict=True):
            target.assign(np.asarray(value))


def graph_layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer of every layer in the graph of a functional or sequential model.

    Nested models of these kinds are opened; a subclassed one counts as one layer.
    """
    found: list[tuple[str, Any]] = []
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model) and is_graph(layer):
            found += graph_layers(layer, f"{path}/")
        else:
            found.append((path, layer))
    return found


class _Builder:
    def __init__(self) -> None:
        self.tf_keras = import_tf_keras()
        self.layer_names: dict[str, str] = {}
        self.weight_layers: dict[str, tuple[str, ...]] = {}
        self._used: set[str] = set()
        self._rebuilt: dict[int, list[Any]] = {}
        self._kept: list[Any] = []
        self._hosts: dict[tuple[int, str], Any] = {}

    def build(self, model: keras.Model) -> Any:
        graph = graph_of(model)
        inputs: Any = []
        for tensor in graph.inputs:
            layer = tensor._keras_history.operation
            name = self._name(layer.name)
            inputs.append(
                self.tf_keras.Input(
                    batch_shape=tuple(tensor.shape), dtype=str(tensor.dtype), name=name
                )
            )
            self.layer_names[layer.name] = name
        outputs = self._walk(graph, inputs, prefix="")
        structure = keras.tree.pack_sequence_as(graph._outputs_struct, outputs)
        if isinstance(graph._inputs_struct, dict):
            inputs = dict(zip(sorted(graph._inputs_struct), inputs, strict=True))
        elif len(inputs) == 1:
            inputs = inputs[0]
        return self.tf_keras.Model(inputs, structure, name=_legal(model.name))

    def _walk(self, graph: Any, inputs: list[Any], prefix: str) -> list[Any]:
        values = {id(t): v for t, v in zip(graph.inputs, inputs, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input or all(id(t) in values for t in node.outputs):
                    continue
                outputs = self._node(node, values, prefix)
                values.update({id(t): v for t, v in zip(node.outputs, outputs, strict=True)})
        return [values[id(tensor)] for tensor in graph.outputs]

    def refused(self, graph: Any, prefix: str) -> dict[str, str]:
        """Return why layers cannot be rebuilt, by path, without rebuilding any."""
        refused: dict[str, str] = {}
        for node in ordered_nodes(graph):
            operation, path = node.operation, prefix + node.operation.name
            if isinstance(operation, keras.Model) and is_graph(operation):
                refused |= self.refused(graph_of(operation), f"{path}/")
                continue
            try:
                _refuse_adapted(operation, path, node)
                kwargs = _keyword_arguments(node)
                if self._native(operation, path, node, kwargs) is None:
                    self._host(operation, path, node, kwargs)
            except ValueError as error:
                refused[path] = str(error)
        return refused

    def _node(self, node: Any, values: dict[int, Any], prefix: str) -> list[Any]:
        operation = node.operation
        kwargs = _keyword_arguments(node)
        inputs = [values[id(tensor)] for tensor in node.arguments.keras_tensors]
        path = prefix + operation.name
        if isinstance(operation, keras.Model) and is_graph(operation):
            outputs = self._walk(graph_of(operation), inputs, f"{path}/")
            if len(outputs) == 1:
                self.layer_names[path] = _layer_of(outputs[0])
            return outputs
        chain = self._native(operation, path, node, kwargs)
        if chain is None:
            chain = [self._host(operation, path, node, kwargs)]
        first = chain[0]
        is_list = len(inputs) != 1 or (
            type(first).__name__ != "HostedLayer"
            and isinstance(node.arguments.args[0] if node.arguments.args else None, (list, tuple))
        )
        x: Any = inputs if is_list else inputs[0]
        try:
            for layer in chain:
                x = layer(x)
        except Exception as error:  # a layer of the user's may raise anything
            raise ValueError(_cannot(operation, path, described(error))) from error
        holders = self._copy_weights(operation, chain, path)
        outputs = _flatten(x)
        self.layer_names[path] = chain[-1].name
        if holders:
            self.weight_layers[path] = holders
        return outputs

    def _native(
        self, operation: Any, path: str, node: Any, kwargs: dict[str, Any]
    ) -> list[Any] | None:
        known = self._rebuilt.get(id(operation))
        if known is not None:
            return known
        name = type(operation).__name__
        module = type(operation).__module__
        arguments = node.arguments
        if not isinstance(operation, keras.layers.Layer):
            positional = list(arguments.args)
            if (
                name in _MERGING_OPERATIONS
                and module == "keras.src.ops.numpy"
                and len(arguments.keras_tensors) == 2
                and len(positional) == 2
                and positional[0].shape == positional[1].shape
                and all("float" in str(tensor.dtype) for tensor in positional)
            ):
                layer_class = getattr(self.tf_keras.layers, name)
                return [layer_class(name=self._name(path))]
            return None
        if kwargs or len(arguments.args) != 1:
            return None
        chain, activation = same_layers(self.tf_keras, operation)
        if not chain and activation is None:
            return None
        for layer, suffix in zip(chain, ("", "_pointwise"), strict=False):
            layer._name = self._name(path + suffix)
        if activation is not None:
            chain.append(self._activation(activation, f"{path}_activation" if chain else path))
        self._rebuilt[id(operation)] = chain
        self._kept.append(operation)
        return chain

    def _activation(self, activation: Any, path: str) -> Any:
        if activation == "relu6":
            return self.tf_keras.layers.ReLU(max_value=6.0, name=self._name(path))
        if isinstance(activation, dict):
            activation = keras.saving.deserialize_keras_object(activation)
        layer = keras.layers.Activation(activation, dtype="float32")
        template = json.dumps({"args": [_FIRST_TENSOR], "kwargs": {}})
        return self._hosted(layer, path, template, ["float32"])

    def _host(self, operation: Any, path: str, node: Any, kwargs: dict[str, Any]) -> Any:
        from keras_kd.compression.tf_keras_bridge.hosted_layer import call_template

        try:
            template, _ = call_template(
                node.arguments.args, kwargs, lambda leaf: isinstance(leaf, keras.KerasTensor)
            )
        except (TypeError, ValueError) as error:
            raise ValueError(_cannot(operation, path, str(error).splitlines()[0])) from error
        key = (id(operation), template)
        if key in self._hosts:
            return self._hosts[key]
        if operation_weights(operation) and any(k[0] == id(operation) for k in self._hosts):
            raise ValueError(
                _cannot(operation, path, "it is shared and called with different arguments")
            )
        dtypes = [str(tensor.dtype) for tensor in node.arguments.keras_tensors]
        host = self._hosted(operation, path, template, dtypes)
        self._hosts[key] = host
        self._kept.append(operation)
        return host

    def _hosted(self, operation: Any, path: str, template: str, dtypes: list[str]) -> Any:
        from keras_kd.compression.tf_keras_bridge.hosted_layer import HostedLayer

        try:
            config = json.dumps(keras.saving.serialize_keras_object(operation))
            return HostedLayer(config, template, dtypes, name=self._name(path))
        except Exception as error:  # a layer of the user's may raise anything
            raise ValueError(_cannot(operation, path, described(error))) from error

    def _copy_weights(self, operation: Any, chain: list[Any], path: str) -> tuple[str, ...]:
        weights = operation_weights(operation)
        if hasattr(chain[0], "copy_weights"):
            if type(chain[0].operation) is type(operation):
                chain[0].copy_weights(operation)
            return (chain[0].name,) if weights else ()
        targets = [weight for layer in chain for weight in layer.weights]
        if [tuple(w.shape) for w in weights] != [tuple(w.shape) for w in targets]:
            raise ValueError(
                _cannot(
                    operation,
                    path,
                    f"its weights have shapes {[tuple(w.shape) for w in weights]}, those of "
                    f"tf_keras {[tuple(w.shape) for w in targets]}",
                )
            )
        for target, weight in zip(targets, weights, strict=True):
            target.assign(keras.ops.convert_to_numpy(weight.value))
        return tuple(layer.name for layer in chain if layer.weights)

    def _name(self, path: str) -> str:
        name = base = _legal(path)
        count = 1
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name


def _keyword_arguments(node: Any) -> dict[str, Any]:
    kwargs = dict(node.arguments.kwargs)
    # Keras 3 lets the `training` of the outermost call override one given inside the graph.
    kwargs.pop("training", None)
    if kwargs.get("mask", 0) is None:
        del kwargs["mask"]
    return kwargs


def _refuse_adapted(operation: Any, path: str, node: Any) -> None:
    """Refuse text, and layers with a state beside their weights and configuration."""
    tensors = [*node.arguments.keras_tensors, *node.outputs]
    layers = keras.layers
    lookup = (layers.TextVectorization, layers.StringLookup, layers.IntegerLookup)
    adapted = isinstance(operation, layers.Normalization) and operation.input_mean is None
    if adapted or isinstance(operation, lookup) or any(str(t.dtype) == "string" for t in tensors):
        raise ValueError(
            f"Layer '{path}' ({type(operation).__name__}) prepares data by what `adapt` has found, "
            "or takes text, which this stage cannot rebuild in tf_keras. Apply it to the data, "
            "dataset.map(lambda x, y: (layer(x), y)), and begin the student behind it."
        )


_MERGING_OPERATIONS = ("Add", "Subtract", "Multiply")

_FIRST_TENSOR = "__keras_kd_tensor_0__"


def operation_weights(operation: Any) -> list[Any]:
    """Return the weights of a Keras 3 layer; none for an operation without."""
    return list(getattr(operation, "weights", []))


def _flatten(structure: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(structure))


def _layer_of(tensor: Any) -> str:
    return str(tensor._keras_history.layer.name)


def _legal(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.\-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"


def _cannot(operation: Any, path: str, reason: str) -> str:
    return (
        f"Layer '{path}' ({type(operation).__name__}) cannot be rebuilt in tf_keras, which this "
        f"stage needs: {reason.rstrip('.')}. Register the class with "
        "@keras.saving.register_keras_serializable() and give it a get_config, replace the "
        "layer, or leave this stage out."
    )


def _in_float32(model: Any) -> Any:
    policies = {
        layer.dtype_policy.name
        for layer in model._flatten_layers()
        if hasattr(layer, "dtype_policy")
    }
    if policies <= {"float32"}:
        return model

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if not isinstance(layer, keras.Model):
            config["dtype"] = "float32"
        return layer.__class__.from_config(config)

    copied = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy_state(model, copied)
    return copied
