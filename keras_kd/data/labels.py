"""Labels that also say which example is which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def class_labels(y: Any) -> Any:
    """Return the labels proper of `y`.

    Losses that remember every example, such as `keras_kd.losses.CRD`, need to know which it is:
    `y` is then `{"index": index, "label": label}`, or `{"index": index}` without labels. The
    student's own loss and its metrics see the labels alone. Any other `y` is returned as it is.
    """
    if isinstance(y, Mapping) and "index" in y and set(y) <= {"index", "label"}:
        return y.get("label")
    return y
