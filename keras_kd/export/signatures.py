"""Named signatures: several functions in one file, such as answers and embeddings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.data.input import Input
from keras_kd.models.features import FeatureReader, find_layer
from keras_kd.models.outputs import name_outputs

DEFAULT_SIGNATURE = "serving_default"
# What one signature gives: the model's outputs, those of layers, or what a function returns.
Target = str | Sequence[str] | Callable[[Any], Any] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and output names of a function, in the model's own order.

    Attributes:
        inputs: Its inputs.
        outputs: Names of its outputs.
        output_shapes: Their shapes, batch dimension first; `None` where a size is not known.
        origins: Names of the operations of TensorFlow that make them, where they are known.
        output_types: Their types, as `"float32"`, where they are known.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    output_shapes: tuple[tuple[int | None, ...], ...] = ()
    origins: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()

    @property
    def gives_classes(self) -> bool:
        """Whether the first output holds integers, classes of which it does not tell how many."""
        return bool(self.output_types) and "float" not in self.output_types[0]

    @property
    def units(self) -> int | None:
        """How many numbers the first output has per answer; `None` where that is not known."""
        shape = self.output_shapes[0] if self.output_shapes else ()
        if not shape or self.gives_classes:
            return None
        return shape[-1] if len(shape) > 1 else 1


def check_signatures(signatures: Any) -> dict[str, Target]:
    """Return named signatures as a dict, the default one where none are given.

    Args:
        signatures: What `export_tflite` was given.

    Raises:
        ValueError: If it is not a dict of names to layer names, functions or `None`.
    """
    if signatures is None:
        return {DEFAULT_SIGNATURE: None}
    if not isinstance(signatures, Mapping) or not signatures:
        raise ValueError(
            "`signatures` must be a dict from names to layer names, functions or None, such as "
            f"{{'serving_default': None, 'features': 'pool'}}. Received: {signatures!r}."
        )
    for name, target in signatures.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ValueError(
                f"A signature's name must be made of letters, digits and `_`. Received: {name!r}."
            )
        layers = isinstance(target, (list, tuple)) and bool(target)
        named = isinstance(target, str) or (layers and all(isinstance(t, str) for t in target))
        if not (target is None or named or callable(target)):
            raise ValueError(
                f"`signatures['{name}']` must be a layer's name, a list of them, a function of the "
                f"model's inputs, or None for the model's own outputs. Received: {target!r}."
            )
    return dict(signatures)


def check_layers(model: keras.Model, signatures: Mapping[str, Target]) -> None:
    """Make sure that the layers which signatures name exist.

    Args:
        model: The model.
        signatures: What `check_signatures` returned.

    Raises:
        ValueError: If there is no such layer; the message lists those that exist.
    """
    for target in signatures.values():
        for path in _paths(target):
            find_layer(model, path)


def given_layers(model: keras.Model, signatures: Mapping[str, Target]) -> list[Any] | None:
    """Return the layers whose outputs signatures give; `None` if a function gives something else.

    Args:
        model: The model.
        signatures: What `check_signatures` returned.
    """
    if any(callable(target) and not isinstance(target, str) for target in signatures.values()):
        return None
    return [find_layer(model, path) for target in signatures.values() for path in _paths(target)]


def gives_outputs(target: Target, outputs: Sequence[str]) -> bool:
    """Whether a signature gives the model's own outputs, or layers of their names.

    Args:
        target: The signature's value.
        outputs: The names of the model's outputs.
    """
    return target is None or not set(outputs).isdisjoint(_paths(target))


def call_target(model: keras.Model, target: Target, inputs: Any) -> dict[str, Any]:
    """Compute what a signature gives.

    Args:
        model: The model.
        target: The signature's value.
        inputs: Tensors in the structure in which the model takes them.

    Returns:
        Tensors by name.

    Raises:
        ValueError: If a function returned something else than tensors, or a layer is not called.
    """
    if target is None:
        return name_outputs(model, model(inputs, training=False))
    if not isinstance(target, str) and callable(target):
        outputs = name_outputs(None, target(inputs))
        if not outputs or not all(keras.ops.is_tensor(tensor) for tensor in outputs.values()):
            raise ValueError(
                "A function in `signatures` must return a tensor, or tensors in a dict, list or "
                f"tuple. Received from {target!r}: {outputs!r}."
            )
        return outputs
    paths = _paths(target)
    _, features = FeatureReader(model, paths).run(model, inputs, training=False)
    named: dict[str, Any] = {}
    for path in paths:
        flat = keras.tree.flatten(features[path])
        for i, tensor in enumerate(flat):
            named[path if len(flat) == 1 else f"{path}_{i}"] = tensor
    return named


def _paths(target: Target) -> list[str]:
    if target is None or (callable(target) and not isinstance(target, str)):
        return []
    return [target] if isinstance(target, str) else list(target)  # type: ignore[arg-type]
