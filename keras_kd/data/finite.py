"""Numbers that are NaN or infinite, found in data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def is_finite(values: Any) -> bool:
    """Return whether no number is NaN or infinite; what holds no floats is finite."""
    if "float" not in str(getattr(values, "dtype", "")):
        return True
    if isinstance(values, np.ndarray):
        # One pass without a copy; only the sum of float64 can be infinite of itself.
        with np.errstate(invalid="ignore", over="ignore"):
            if np.isfinite(np.sum(values, dtype="float64")):
                return True
    return bool(np.isfinite(keras.ops.convert_to_numpy(values)).all())


def first_row_not_finite(arrays: Any) -> int:
    """Return the first row in which an array in memory is not finite; 0 where there is none."""
    rows = [
        int(np.argmin(finite_rows(array)))
        for array in arrays
        if type(array) is np.ndarray and not is_finite(array)
    ]
    return min(rows, default=0)


def finite_rows(array: np.ndarray) -> np.ndarray:
    """Return which rows of an array hold finite numbers only."""
    finite: np.ndarray = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return finite


def check_finite(values: Any, what: str, advice: str, first_row: int = 0) -> None:
    """Refuse a structure of tensors in which a number is NaN or infinite.

    Args:
        values: The structure.
        what: What the values are, with an article.
        advice: What to do.
        first_row: Number of the first row in the data. Defaults to `0`.

    Raises:
        ValueError: If so, with the number and its place.
    """
    for path, part in keras.tree.flatten_with_path(values):
        if part is None or is_finite(part):
            continue
        array = np.asarray(keras.ops.convert_to_numpy(part), "float64")
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = "".join(f"[{key!r}]" for key in path)
        shown = [first_row + place[0], *place[1:]] if place else []
        raise ValueError(
            f"{what[:1].upper()}{what[1:]} must be finite numbers. Received: {array[place]} at "
            f"{where}{shown}. {advice}"
        )
