"""The callbacks that `fit` adds to those it is given, and what it asks of those."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any

import keras


class EpochBegin(keras.callbacks.Callback):
    """Calls `trainer.begin_epoch` before every epoch.

    Args:
        trainer: What is trained.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.trainer = trainer

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass the epoch on."""
        self.trainer.begin_epoch(epoch)


def with_epoch_begin(trainer: Any, callbacks: Any) -> Any:
    """Return the callbacks of `fit` with an `EpochBegin` before them.

    Args:
        trainer: What is trained.
        callbacks: A callback, several, a `keras.callbacks.CallbackList`, which is changed, or
            `None`.
    """
    callback = EpochBegin(trainer)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        kept = [c for c in callbacks.callbacks if not isinstance(c, EpochBegin)]
        callbacks.callbacks[:] = [callback, *kept]
        return callbacks
    callbacks = callbacks or []
    return [callback, *(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])]


def with_progress_line(callbacks: Any) -> Any:
    """Return the callbacks of `fit` with a `ProgressLine`, unless there is another one.

    Args:
        callbacks: A callback, several or `None`. A `keras.callbacks.CallbackList` stays as it is.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = keras.tree.flatten(callbacks) if callbacks else []
    has_one = any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given)
    return given if has_one else [*given, ProgressLine()]


class ProgressLine(keras.callbacks.ProgbarLogger):
    """Shows losses before metrics, without the loss on labels, which the history has as well."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Show a batch."""
        super().on_train_batch_end(batch, _shown(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show an epoch."""
        super().on_epoch_end(epoch, _shown(logs))


# The losses on labels in the logs, those of peers included.
_ON_LABELS = re.compile(r"(val_)?(peer_\d+_)?student_loss")


def _shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    def place(name: str) -> tuple[bool, bool, bool]:
        return name.startswith("val_"), name != "loss", not name.endswith("loss")

    names = [name for name in logs or () if not _ON_LABELS.fullmatch(name)]
    return {name: (logs or {})[name] for name in sorted(names, key=place)}


def check_tensorboard(callbacks: Any) -> None:
    """Refuse the callback TensorBoard where its package is missing, before an epoch was trained.

    Raises:
        ImportError: If so.
    """
    given = getattr(callbacks, "callbacks", callbacks)
    wanted = any(isinstance(c, keras.callbacks.TensorBoard) for c in keras.tree.flatten(given))
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "The callback TensorBoard needs the package tensorboard, which is not installed. Run: "
            'pip install "keras-kd[tensorboard]".'
        )
