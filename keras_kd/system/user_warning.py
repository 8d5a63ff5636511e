"""Warnings that point to the line of the user's program."""

from __future__ import annotations

import inspect
import warnings

# What may stand between a user's call and a warning of this package.
_BETWEEN = {
    "ai_edge_litert", "concurrent", "contextlib", "functools", "keras", "keras_kd", "tensorflow",
    "tf_keras", "threading", "tqdm",
}  # fmt: skip


def warn_user(text: str) -> None:
    """Warn at the innermost line outside of this package, Keras and TensorFlow.

    Args:
        text: What the user should know, and what to do about it.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
