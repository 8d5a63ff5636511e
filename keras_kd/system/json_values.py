"""Values as JSON can hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any


def plain(value: Any, otherwise: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a value as JSON can hold it: NumPy's numbers as Python's, NaN and infinity as null.

    Args:
        value: Nested mappings, lists and tuples of numbers, texts, arrays and paths.
        otherwise: What becomes of a value of another kind. Defaults to leaving it as it is.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(part, otherwise) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, otherwise) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist(), otherwise)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else otherwise(value)
