"""Objects of Keras, made again from their configuration."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_kd.system.shown_text import described


def own_kinds(part: Any) -> dict[str, Any]:
    """Return the class of an object, and the classes and functions that it holds, by name.

    Those of Keras are left out.
    """
    held = [part]
    for each in held:
        held += [
            value
            for value in getattr(each, "__dict__", {}).values()
            if (inspect.isfunction(value) or hasattr(value, "get_config"))
            and not isinstance(value, type)
            and not any(value is other for other in held)
        ]
    kinds = [each if inspect.isfunction(each) else type(each) for each in held]
    return {kind.__name__: kind for kind in kinds if kind.__module__.split(".")[0] != "keras"}


def made_again(part: Any, **changes: Any) -> Any:
    """Return a layer, metric, loss, optimizer or schedule like another one, without its state.

    Functions and classes that it holds need not be registered with Keras.

    Args:
        part: The object.
        **changes: Entries of the configuration that are to be other ones.

    Raises:
        ValueError: If its class cannot do that; the message names the object.
    """
    try:
        with keras.saving.custom_object_scope(own_kinds(part)):
            return type(part).from_config({**part.get_config(), **changes})
    except Exception as error:  # a class of the user's may raise anything
        raise ValueError(
            f"'{getattr(part, 'name', '')}' ({type(part).__name__}) cannot be made again from its "
            f"configuration: {described(error)}. Give the class a `get_config` with the arguments "
            "of its constructor, and replace a lambda by a named function."
        ) from error
