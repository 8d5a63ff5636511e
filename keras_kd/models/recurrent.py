"""Recurrent layers of a model: found, and unrolled over time for a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_kd.models.graph import flat_layers

CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


@contextlib.contextmanager
def unrolled(model: keras.Model, active: bool) -> Iterator[None]:
    """Let recurrent layers write one copy of their cell per step for the duration of a trace."""
    changed = [layer for layer in recurrent_layers(model) if not layer.unroll] if active else []
    try:
        for layer in changed:
            layer.unroll = True
        yield
    finally:
        for layer in changed:
            layer.unroll = False


def recurrent_layers(model: keras.Model) -> list[Any]:
    """Return the recurrent layers of a model, those inside others too."""
    return [layer for layer in flat_layers(model) if isinstance(layer, keras.layers.RNN)]


def steps_are_open(layer: Any) -> bool:
    """Return whether the number of steps of a recurrent layer is not known."""
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or config.get("shapes_dict", {}).get("sequences_shape")
    return shape is not None and shape[1] is None
