"""Matching a student's batch with the named inputs of a saved teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


def by_name(x: Any, specs: Mapping[str, tf.TensorSpec], what: str) -> dict[str, Any]:
    """Return the tensors of a batch by the names of the inputs, in the inputs' types.

    Args:
        x: A tensor, a dictionary by name, or a list or tuple in the inputs' order.
        specs: The name, shape and type of every input, in order.
        what: What takes the inputs, for error messages.

    Raises:
        ValueError: If the batch does not fit the inputs.
    """
    if isinstance(x, Mapping):
        missing = [name for name in specs if name not in x]
        if missing:
            raise ValueError(
                f"{what} takes {_names(specs)}, but the data holds {_names(x)}. "
                "Pass `teacher_inputs=` a function that returns the teacher's inputs by name."
            )
        given = {name: x[name] for name in specs}
    else:
        parts: Sequence[Any] = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(parts) != len(specs):
            raise ValueError(
                f"{what} takes {_names(specs)}, but the data holds {len(parts)} "
                f"input{'' if len(parts) == 1 else 's'}. Pass `teacher_inputs=` a function that "
                "returns the teacher's inputs by name."
            )
        given = dict(zip(specs, parts, strict=True))
    return {name: _fit(given[name], spec, name, what) for name, spec in specs.items()}


def _fit(value: Any, spec: tf.TensorSpec, name: str, what: str) -> Any:
    value = tf.convert_to_tensor(value)
    if not spec.shape[1:].is_compatible_with(value.shape[1:]):
        raise ValueError(
            f"{what} takes '{name}' of shape {_sizes(spec.shape)} (without the batch), but the "
            f"data has {_sizes(value.shape)}. Pass `teacher_inputs=` a function that returns the "
            "teacher's inputs, such as keras.layers.Resizing(height, width)."
        )
    if value.dtype == spec.dtype:
        return value
    if value.dtype.is_floating and spec.dtype.is_integer:
        raise ValueError(
            f"{what} takes '{name}' as {spec.dtype.name}, but the data is {value.dtype.name}. Pass "
            f'`teacher_inputs=lambda x: keras.ops.cast(x, "{spec.dtype.name}")` if its numbers '
            "are whole."
        )
    return tf.cast(value, spec.dtype)


def _names(named: Any) -> str:
    names = ", ".join(f"'{name}'" for name in named)
    return f"the input {names}" if len(named) == 1 else f"the inputs {names}"


def _sizes(shape: tf.TensorShape) -> tuple[int | None, ...]:
    return tuple(shape[1:])
