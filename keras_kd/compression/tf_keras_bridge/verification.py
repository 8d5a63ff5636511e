"""Comparing a model rebuilt in `tf_keras` with the original."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_kd.models.graph import graph_of

_TOLERANCE = 1e-5
# Every layer rounds: the outputs may differ by a few times what one rounding changes.
_ROUNDINGS = 4.0


def verify_bridge(model: Any, bridged: Any) -> None:
    """Refuse a rebuilt model that returns other values than the original, on random inputs.

    Differences of `1e-5` of the outputs' size are those of another order of sums. A deep model may
    magnify them: by as much as it magnifies the smallest change of its inputs, which is the measure
    where the tolerance is not met.

    Args:
        model: A functional or sequential Keras 3 model.
        bridged: The `tf_keras` model.

    Raises:
        ValueError: If an output differs by more.
    """
    generator = np.random.default_rng(0)
    inputs = [_random_input(model, tensor, generator) for tensor in graph_of(model).inputs]
    expected = _outputs(model, inputs)
    packed = keras.tree.pack_sequence_as(graph_of(model)._inputs_struct, inputs)
    received = keras.tree.flatten(bridged(packed, training=False))
    moved: list[np.ndarray] = []
    for i, (e, r) in enumerate(zip(expected, received, strict=True)):
        allowed = _TOLERANCE * max(1.0, float(np.abs(e).max(initial=0.0)))
        difference = float(np.abs(e - np.asarray(r)).max(initial=0.0))
        if difference <= allowed:
            continue
        moved = moved or _outputs(model, [_next_number(value) for value in inputs])
        allowed = max(allowed, _ROUNDINGS * float(np.abs(e - moved[i]).max(initial=0.0)))
        if not difference <= allowed:
            raise ValueError(
                f"Model '{model.name}' rebuilt in tf_keras returns other values than the "
                f"original: they differ by {difference:.3g} at most, where {allowed:.3g} is "
                "allowed. Please report the model's layers; leave this stage out meanwhile."
            )


def _outputs(model: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    packed = keras.tree.pack_sequence_as(graph_of(model)._inputs_struct, inputs)
    outputs = keras.tree.flatten(model(packed, training=False))
    return [keras.ops.convert_to_numpy(value) for value in outputs]


def _next_number(value: np.ndarray) -> np.ndarray:
    """Return the next larger number of the same type; whole numbers as they are."""
    return np.nextafter(value, np.inf) if value.dtype.kind == "f" else value


def _random_input(model: Any, tensor: Any, generator: np.random.Generator) -> np.ndarray:
    shape = [2 if i == 0 else 16 for i in range(len(tensor.shape))]
    shape = [
        fixed if size is None else size for size, fixed in zip(tensor.shape, shape, strict=True)
    ]
    dtype = str(tensor.dtype)
    if "float" in dtype:
        return generator.uniform(-1.0, 1.0, shape).astype(dtype)
    vocabularies = [
        layer.input_dim
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    ]
    return generator.integers(0, min(vocabularies, default=2), shape).astype(dtype)
