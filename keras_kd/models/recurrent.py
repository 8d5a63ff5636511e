"""Recurrent layers of a model: found, unrolled over time for a trace, and run without a state."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_kd.losses.shared.masks import zero_masked
from keras_kd.models.graph import flat_layers

CELLS = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)


@contextlib.contextmanager
def unrolled(model: keras.Model, active: bool) -> Iterator[None]:
    """Let recurrent layers write one copy of their cell per step for the duration of a trace."""
    changed = [layer for layer in recurrent_layers(model) if not layer.unroll] if active else []
    reversing = [
        layer
        for layer in changed
        if layer.go_backwards and layer.zero_output_for_mask and "inner_loop" not in vars(layer)
    ]
    try:
        for layer in changed:
            layer.unroll = True
        for layer in reversing:
            object.__setattr__(layer, "inner_loop", _reversed_by_mask(layer))
        yield
    finally:
        for layer in changed:
            layer.unroll = False
        for layer in reversing:
            object.__delattr__(layer, "inner_loop")


def _reversed_by_mask(layer: Any) -> Callable[..., Any]:
    """Return a layer's loop with zeros at masked steps of the reversed sequence.

    Unrolled, Keras sets them to zero by the mask of the sequence before it is reversed.
    """
    loop = layer.inner_loop

    def inner_loop(*args: Any, **kwargs: Any) -> Any:
        layer.zero_output_for_mask = False
        try:
            last, outputs, states = loop(*args, **kwargs)
        finally:
            layer.zero_output_for_mask = True
        mask = inspect.signature(loop).bind(*args, **kwargs).arguments.get("mask")
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        if mask is not None:
            mask = keras.ops.flip(keras.ops.cast(mask, "bool"), axis=1)
            last = zero_masked(last, mask[:, -1])
            outputs = zero_masked(outputs, mask)
        return last, outputs, states

    return inner_loop


@contextlib.contextmanager
def initial_state(model: Any) -> Iterator[None]:
    """Reset the states of stateful recurrent layers, and restore them afterwards."""
    layers = flat_layers(model) if hasattr(model, "layers") else []
    states = keras.tree.flatten([getattr(layer, "states", None) for layer in layers])
    kept = [(state, state.numpy()) for state in states if hasattr(state, "assign")]
    try:
        for state, value in kept:
            state.assign(np.zeros_like(value))
        yield
    finally:
        for state, value in kept:
            state.assign(value)


@contextlib.contextmanager
def without_state(model: Any) -> Iterator[None]:
    """Let a model begin at its initial state, and forget what its layers assign.

    So no output depends on what was computed before.
    """
    with initial_state(model), keras.StatelessScope():
        yield


def recurrent_layers(model: keras.Model) -> list[Any]:
    """Return the recurrent layers of a model, those inside others too."""
    return [layer for layer in flat_layers(model) if isinstance(layer, keras.layers.RNN)]


def steps_are_open(layer: Any) -> bool:
    """Return whether the number of steps of a recurrent layer is not known."""
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or config.get("shapes_dict", {}).get("sequences_shape")
    return shape is not None and shape[1] is None
