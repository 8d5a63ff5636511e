"""Which model of this process a file was exported from."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import weakref
import zlib
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Origin:
    model: weakref.ref[Any]
    weights: int
    file: tuple[int, int]


_origins: dict[pathlib.Path, _Origin] = {}


def remember_origin(path: str | os.PathLike[str], model: Any) -> None:
    """Remember, without keeping the model alive, that `path` was exported from `model`."""
    key = pathlib.Path(path).resolve()
    try:
        _origins[key] = _Origin(weakref.ref(model), _weights(model), _state(key))
    except (TypeError, AttributeError):  # a model that cannot be referred to, or has no weights
        _origins.pop(key, None)


def origin(path: str | os.PathLike[str]) -> Any:
    """Return the model that `path` was exported from.

    Returns:
        The model; `None` if it was exported by another process, is gone, or if the file or the
        model's weights have changed since.
    """
    key = pathlib.Path(path).resolve()
    found = _origins.get(key)
    model = None if found is None else found.model()
    if found is None or model is None:
        return None
    if _state(key) != found.file or _weights(model) != found.weights:
        return None
    return model


def _state(path: pathlib.Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _weights(model: Any) -> int:
    checksum = 0
    for weight in getattr(model, "model", model).get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(weight).tobytes(), checksum)
    return checksum
