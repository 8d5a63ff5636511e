"""Views: a model that computes otherwise for the length of a pass, and is left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras


class View(Protocol):
    """What a student is seen through while it trains.

    Attributes:
        layers: Layers that are trained or kept beside the student.
    """

    layers: Sequence[keras.layers.Layer]

    def applied(self, training: bool) -> contextlib.AbstractContextManager[None]:
        """Let one call of the model inside the block compute as this view says."""


@contextlib.contextmanager
def read_as(model: keras.Model, values: Sequence[tuple[keras.Variable, Any]]) -> Iterator[None]:
    """Let a model read other values of some of its variables; what it assigns to others is kept.

    Gradients flow through the values to whatever they were computed from.

    Args:
        model: A model of any kind. Composite and custom layers read the values, too.
        values: Variables with the tensors to be read in their place.
    """
    replaced = {id(variable) for variable, _ in values}
    with keras.StatelessScope(state_mapping=list(values), collect_losses=True) as scope:
        yield
    for variable in model.non_trainable_variables:
        value = None if id(variable) in replaced else scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)
    for loss in scope.losses:
        keras.layers.Layer.add_loss(model, loss)  # a functional model refuses it
