"""Choices as JSON can hold them, functions by what they compute."""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.compression.running.student_files import object_as_json
from keras_kd.models.layers import identity_of
from keras_kd.system.json_values import plain


def as_plan(content: Any) -> Any:
    """Return `content` as `as_json` does, but functions with a hash of what they compute.

    Two functions may have one name, as all lambdas have.
    """
    open_functions: list[Any] = []

    def known(value: Any) -> Any:
        if isinstance(value, functools.partial):
            parts = [value.func, value.args, value.keywords]
            return {"function": "partial", "of": plain(parts, known)}
        function = getattr(value, "__func__", value)  # of a method
        if isinstance(function, types.FunctionType) and function not in open_functions:
            open_functions.append(function)  # one may refer to itself
            cells = [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
            parts = [_parts(function.__code__), function.__defaults__, function.__kwdefaults__]
            text = json.dumps(plain([*parts, cells], known), sort_keys=True)
            open_functions.pop()
            return {
                "function": function.__qualname__,
                "module": function.__module__,
                "code": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
            }
        if open_functions and hasattr(value, "numpy"):  # tensors and variables
            return plain(value.numpy(), known)
        if open_functions and isinstance(value, keras.Model):  # names of layers are numbered
            return identity_of(value)
        return object_as_json(value, known)

    return plain(content, known)


def with_functions(kept: Any, ours: Any) -> Any:
    """Return a kept plan, whose functions earlier versions named alone, with our descriptions.

    Args:
        kept: The plan that was kept.
        ours: The plan of this call.
    """
    if isinstance(kept, str) and isinstance(ours, Mapping) and ours.get("function") == kept:
        return ours
    if isinstance(kept, Mapping) and isinstance(ours, Mapping):
        return {key: with_functions(value, ours.get(key)) for key, value in kept.items()}
    if isinstance(kept, list) and isinstance(ours, list) and len(kept) == len(ours):
        return [with_functions(*pair) for pair in zip(kept, ours, strict=True)]
    return kept


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # of a name that is not assigned yet
        return False


def _parts(code: types.CodeType) -> list[Any]:
    """Return what a code object computes, without the lines that it stands on."""
    constants = [
        _parts(value)
        if isinstance(value, types.CodeType)
        else repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)
        for value in code.co_consts
    ]
    return [code.co_code.hex(), [*code.co_names], [*code.co_varnames], constants]
