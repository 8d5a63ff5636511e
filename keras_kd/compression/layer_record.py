"""What was done to each layer of a compressed student."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass
class LayerNotes:
    """What the stages did to a layer, and why not, in words."""

    done: list[str] = dataclasses.field(default_factory=list)
    not_done: list[str] = dataclasses.field(default_factory=list)
    bits: int | None = None


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """One layer of the student that was given to `compress`, and what became of it.

    Attributes:
        name: The layer's name; `"backbone/block1"` for a layer inside a nested model.
        class_name: Its class.
        shapes: Shapes of its weights.
        parameters: Number of its weights.
        sparsity: Fraction of zeros among its kernels (weights of two and more axes), or `None`
            where it has no kernel.
        clusters: Number of different values in its kernels, if they were clustered.
        bits: Bits of a weight in the exported file, or `None` where the layer stays float or has
            no weights.
        done: What the stages did to it.
        not_done: What they did not do to it, and why.
    """

    name: str
    class_name: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    sparsity: float | None
    clusters: int | None
    bits: int | None
    done: tuple[str, ...]
    not_done: tuple[str, ...]


def leaf_layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer of every layer of a Keras 3 model, nested models opened."""
    leaves: list[tuple[str, Any]] = []
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model):
            leaves += leaf_layers(layer, f"{path}/")
        else:
            leaves.append((path, layer))
    return leaves


def kernel_values(layer: Any) -> list[np.ndarray]:
    """Return the weights of two and more axes of a layer, of Keras 3 or `tf_keras`."""
    return [
        np.asarray(value)
        for value, weight in zip(layer.get_weights(), layer.weights, strict=True)
        if len(weight.shape) >= 2 and "int" not in str(weight.dtype)
    ]


def zero_fraction(kernels: list[np.ndarray]) -> float | None:
    """Return the fraction of zeros in all of `kernels`, or `None` if there are none."""
    size = sum(kernel.size for kernel in kernels)
    return sum(int((kernel == 0).sum()) for kernel in kernels) / size if size else None


def already_pruned(model: Any) -> bool:
    """Whether a kernel of `model` is zero in a tenth of its places or more.

    Training leaves next to no weight at exactly zero: such a model was pruned.
    """
    return any((zero_fraction([kernel]) or 0.0) >= 0.1 for kernel in kernel_values(model))


def layer_records(original: Any, state: Any) -> list[LayerRecord]:
    """Describe every layer of the original student.

    Args:
        original: The Keras 3 student as given to `compress`.
        state: The `StudentState` after the last stage.
    """
    renamed = {layer.name: layer for layer in state.model.layers} if state.weight_layers else {}
    present = {} if state.weight_layers else dict(leaf_layers(state.model))
    records = []
    for path, layer in leaf_layers(original):
        holders = [renamed[name] for name in state.weight_layers.get(path, ())]
        if path in present:
            holders = [present[path]]
        kernels = [kernel for holder in holders for kernel in kernel_values(holder)]
        notes = state.notes.get(path, LayerNotes())
        records.append(
            LayerRecord(
                name=path,
                class_name=type(layer).__name__,
                shapes=tuple(tuple(int(n) for n in w.shape) for w in layer.weights),
                parameters=int(sum(np.prod(w.shape) for w in layer.weights)),
                sparsity=zero_fraction(kernels),
                clusters=None,
                bits=notes.bits,
                done=tuple(notes.done),
                not_done=tuple(notes.not_done),
            )
        )
    return records
