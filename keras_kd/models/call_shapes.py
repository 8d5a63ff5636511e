"""Shapes of the arrays that a layer or operation is given in one call."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Given:
    """An array that an operation is given.

    Attributes:
        argument: The name of the argument.
        shape: Its shape.
        symbolic: Whether it is a tensor of the graph, whose first axis is the batch.
    """

    argument: str
    shape: Sequence[int | None]
    symbolic: bool

    @property
    def of_one_example(self) -> Sequence[int | None]:
        """Its shape with one example in the batch."""
        return (1, *self.shape[1:]) if self.symbolic else self.shape


def arrays_given(node: Any, shapes: Sequence[Sequence[int | None]]) -> list[Given]:
    """Return the arrays that a call is given, constants too, in the order of its `call`.

    Args:
        node: The call of a layer or an operation of `keras.ops`.
        shapes: Shapes of the symbolic tensors that it is given.
    """
    arguments = node.arguments
    known = {id(x): shape for x, shape in zip(arguments.keras_tensors, shapes, strict=True)}
    try:
        bound = inspect.signature(node.operation.call).bind(*arguments.args, **arguments.kwargs)
    except TypeError:  # a layer whose `__call__` takes other arguments
        return [Given("", shape, True) for shape in shapes]
    return [
        each for name, value in bound.arguments.items() for each in _arrays_in(name, value, known)
    ]


def _arrays_in(name: str, value: Any, known: Mapping[int, Any]) -> Iterator[Given]:
    if isinstance(value, keras.KerasTensor):
        yield Given(name, known[id(value)], True)
    elif hasattr(value, "shape"):
        yield Given(name, tuple(value.shape), False)
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _arrays_in(name, part, known)
