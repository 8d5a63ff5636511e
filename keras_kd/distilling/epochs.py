"""Telling a distiller which epoch begins."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_kd.system.arguments import number


class EpochBegin(keras.callbacks.Callback):
    """Calls `distiller.begin_epoch` before every epoch.

    Args:
        distiller: The distiller that is trained.
    """

    def __init__(self, distiller: Any) -> None:
        super().__init__()
        self.distiller = distiller

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass the epoch on."""
        self.distiller.begin_epoch(epoch)


def with_epoch_begin(distiller: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of `fit` by name, with an `EpochBegin` among the callbacks."""
    bound = inspect.signature(keras.Model.fit).bind(distiller, *args, **kwargs)
    arguments = dict(bound.arguments)
    del arguments["self"]
    callbacks = arguments.get("callbacks")
    callback = EpochBegin(distiller)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        kept = [c for c in callbacks.callbacks if not isinstance(c, EpochBegin)]
        callbacks.callbacks[:] = [callback, *kept]
    else:
        callbacks = callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        arguments["callbacks"] = [callback, *callbacks]
    return arguments


def check_epoch(epoch: Any) -> int | None:
    """Return the epoch at which distillation stops, or `None`.

    Raises:
        ValueError: If it is not a whole number from 0 on.
    """
    return number("stop_distillation_at", epoch, least=0, whole=True, optional=True)
