"""What was done to each layer of a compressed student."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_kd.models.layers import leaf_layers


@dataclasses.dataclass
class LayerNotes:
    """What the stages did to a layer, and why not, in words.

    Attributes:
        done: What was done.
        not_done: What was not done, and why.
        bits: Bits of a weight in the exported file, where it was trained for them.
        clustered: `"kernel"` or `"channel"`: what the values are shared by, if they are.
    """

    done: list[str] = dataclasses.field(default_factory=list)
    not_done: list[str] = dataclasses.field(default_factory=list)
    bits: int | None = None
    clustered: str | None = None


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """One layer of the student that was given to `compress`, and what became of it.

    Attributes:
        name: The layer's name; `"backbone/block1"` for a layer inside a nested model.
        class_name: Its class.
        shapes: Shapes of its weights, as they are now.
        parameters: Number of its weights, as they are now.
        sparsity: Fraction of zeros among its kernels (weights of two and more axes), or `None`
            where it has no kernel.
        clusters: Number of distinct values in its kernel, if it was clustered; the largest such
            number of a channel, if it was clustered channel by channel.
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


def kernel_values(layer: Any) -> list[np.ndarray]:
    """Return the weights of two and more axes of a layer."""
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
    """Whether a kernel of a Keras 3 model is zero in a tenth of its places or more.

    Training leaves next to no weight of a kernel at exactly zero: such a model was pruned, here or
    elsewhere. Biases (those of attention have two axes) and kernels that are zero throughout are
    zero because nothing has trained them yet.
    """
    return any(
        0.1 <= (zero_fraction([keras.ops.convert_to_numpy(weight.value)]) or 0.0) < 1.0
        for weight in model.weights
        if weight.name.endswith(("kernel", "embeddings")) and "float" in str(weight.dtype)
    )


def distinct_values(kernel: np.ndarray, per_channel: bool = False) -> int:
    """Return the number of distinct values of a kernel.

    Args:
        kernel: Any array.
        per_channel: Whether to count along the last axis and return the largest number. Defaults
            to `False`.
    """
    groups = np.moveaxis(kernel, -1, 0) if per_channel else [kernel]
    return max((len(np.unique(group)) for group in groups), default=0)


def layer_records(original: Any, state: Any) -> list[LayerRecord]:
    """Describe every layer of the original student.

    Args:
        original: The Keras 3 student as given to `compress`.
        state: The `StudentState` after the last stage.
    """
    structure = dict(leaf_layers(state.model))
    records = []
    for path, layer in leaf_layers(original):
        parts = [part for part in state.parts.get(path, (path,)) if part in structure]
        holders = [structure[part] for part in parts]
        shapes = tuple(tuple(int(n) for n in w.shape) for h in holders for w in h.weights)
        kernels = [kernel for holder in holders for kernel in kernel_values(holder)]
        notes = _notes_of(path, parts, state.notes)
        counts = [distinct_values(kernel, notes.clustered == "channel") for kernel in kernels]
        records.append(
            LayerRecord(
                name=path,
                class_name=type(layer).__name__,
                shapes=shapes,
                parameters=int(sum(np.prod(shape) for shape in shapes)),
                sparsity=zero_fraction(kernels),
                clusters=max(counts, default=None) if notes.clustered else None,
                bits=notes.bits,
                done=tuple(notes.done),
                not_done=tuple(notes.not_done),
            )
        )
    return records


def _notes_of(path: str, parts: list[str], notes: dict[str, LayerNotes]) -> LayerNotes:
    """Return the notes on a layer together with those on the layers that it was split into."""
    own = notes.get(path, LayerNotes())
    whole = dataclasses.replace(own, done=list(own.done), not_done=list(own.not_done))
    for part in parts:
        if part != path and part in notes:
            whole.done += [f"'{part}' {text}" for text in notes[part].done]
            whole.not_done += [f"'{part}' {text}" for text in notes[part].not_done]
            whole.clustered = whole.clustered or notes[part].clustered
            whole.bits = whole.bits or notes[part].bits
    return whole
