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


def history_value(value: Any) -> Any:
    """Return the value of a metric as a history holds it: a number, or nested lists of them.

    Args:
        value: A number, an array or a tensor; metrics such as `F1Score` give one value per class.
    """
    if hasattr(value, "numpy"):  # tensors and variables
        value = value.numpy()
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list) else float(value)


def plain_history(history: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return a history, lists of the values of metrics by name, as JSON can hold it."""
    return {name: [history_value(value) for value in values] for name, values in history.items()}
