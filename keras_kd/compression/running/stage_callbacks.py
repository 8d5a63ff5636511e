"""The callbacks of `compress`: which ones every stage takes, and what they know of its training."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.compression.pruning.callback import PruningCallback
from keras_kd.compression.stages.stage import Stage
from keras_kd.distilling.backup import BackupAndRestore
from keras_kd.distilling.trainer import PRIVATE_STATES

Callbacks = Sequence[keras.callbacks.Callback]
Known = dict[str, Any]

_INSTEAD = {
    BackupAndRestore: "Pass `path=`, a folder: every stage is backed up there and resumed.",
    keras.callbacks.BackupAndRestore: "Pass `path=`, a folder: every stage is backed up there "
    "and resumed.",
    PruningCallback: "Pass the Prune itself among the `stages`.",
}


def stage_callbacks(
    callbacks: Callbacks | Callable[[Stage], Callbacks] | None, stages: Sequence[Stage]
) -> list[list[keras.callbacks.Callback]]:
    """Return the callbacks of each stage.

    Args:
        callbacks: A list for every stage, a function `stage -> list`, or `None`.
        stages: The stages.

    Raises:
        TypeError: If something is not a Keras callback.
        ValueError: If a callback does what `compress` does itself.
    """
    per_stage = []
    for stage in stages:
        given = callbacks
        if callable(callbacks) and not isinstance(callbacks, keras.callbacks.Callback):
            given = callbacks(stage)
        if isinstance(given, keras.callbacks.Callback):
            given = [given]
        if given is not None and not isinstance(given, (list, tuple)):
            raise TypeError(
                "`callbacks` must be a list of Keras callbacks, or a function `stage -> list`. "
                f"Received: callbacks={given!r}."
            )
        for callback in given or ():
            if not isinstance(callback, keras.callbacks.Callback):
                raise TypeError(
                    "`callbacks` must hold callbacks of keras.callbacks.Callback. "
                    f"Received: {callback!r}."
                )
            for kind, instead in _INSTEAD.items():
                if isinstance(callback, kind):
                    raise ValueError(
                        f"`callbacks` holds a {type(callback).__name__}, which cannot run in a "
                        f"stage of `compress`. {instead}"
                    )
        per_stage.append(list(given or ()))
    return per_stage


def each_once(per_stage: Sequence[Callbacks]) -> list[keras.callbacks.Callback]:
    """Return the callbacks of all stages, each of them once."""
    return list({id(callback): callback for given in per_stage for callback in given}.values())


class CallbackStates:
    """What callbacks have learned since this was made, such as the best epoch.

    That is every public attribute, and what `PRIVATE_STATES` names, that was given another value,
    if it is a number, a text, an array, `None` or a list of these: what `EarlyStopping`,
    `ReduceLROnPlateau` and `ModelCheckpoint` decide by.

    Within a training it is made once `on_train_begin` was called, in which callbacks forget the
    training before. From stage to stage it is made before the first one: what a callback does not
    forget, such as the best value of a `ModelCheckpoint`, it knows in the next stage.

    Args:
        callbacks: The callbacks.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._first = [_known(callback) for callback in callbacks]

    def learned(self) -> tuple[list[Known], list[np.ndarray]]:
        """Return it as JSON can hold it, and the arrays in it."""
        arrays: list[np.ndarray] = []

        def plain(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                arrays.append(value)
                return {"array": len(arrays) - 1}
            return [plain(part) for part in value] if isinstance(value, list) else value

        states = []
        for callback, first in zip(self._callbacks, self._first, strict=True):
            changed = {
                name: plain(value)
                for name, value in _known(callback).items()
                if name not in first or not _same(value, first[name])
            }
            states.append({"class": type(callback).__name__, "attributes": changed})
        return states, arrays

    def differs(self, states: Sequence[Mapping[str, Any]]) -> str:
        """Return how the callbacks that `states` is of differ from these, `""` if they do not."""
        before = [state["class"] for state in states]
        now = [type(callback).__name__ for callback in self._callbacks]
        if before == now:
            return ""
        return f"({', '.join(before) or 'none'}). Received: {', '.join(now) or 'none'}"

    def restore(self, states: Sequence[Mapping[str, Any]], arrays: Sequence[np.ndarray]) -> None:
        """Set the attributes to what `learned` returned.

        Raises:
            ValueError: If it is of other callbacks.
        """
        if differing := self.differs(states):
            raise ValueError(
                f"The stage to resume was started with other `callbacks` {differing}. Pass the "
                "callbacks it was started with, or a new folder as `path`."
            )

        def full(value: Any) -> Any:
            if isinstance(value, Mapping):
                return arrays[value["array"]]
            return [full(part) for part in value] if isinstance(value, list) else value

        for callback, first, state in zip(self._callbacks, self._first, states, strict=True):
            for name, value in state["attributes"].items():
                if _is_kept(callback, name) and name not in _TURNED:
                    setattr(callback, name, full(value))
                    first.pop(name, None)  # so that it stays among what was learned


# Keras turns the sign of it, as it does again in a resumed training.
_TURNED = ("min_delta",)


def _is_kept(callback: keras.callbacks.Callback, name: str) -> bool:
    return not name.startswith("_") or name in _private_states(callback)


def _private_states(callback: keras.callbacks.Callback) -> list[str]:
    return [name for kind, name in PRIVATE_STATES.items() if isinstance(callback, kind)]


def forget_private_states(callbacks: Callbacks) -> None:
    """Let callbacks of Keras forget what they kept in private of an earlier training.

    `SwapEMAWeights` keeps that the averages are in the model, and would swap those of a new
    optimizer, zeros, into the next one.

    Args:
        callbacks: The callbacks, before a training.
    """
    for callback in callbacks:
        for name in _private_states(callback):
            setattr(callback, name, False)


class _Unknown(Exception):
    pass


def _known(callback: keras.callbacks.Callback) -> Known:
    known = {}
    for name, value in vars(callback).items():
        if _is_kept(callback, name):
            with contextlib.suppress(_Unknown):
                known[name] = _simple(value)
    return known


def _simple(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        # NumPy's format does not know bfloat16.
        kept = np.array(value, "float32" if value.dtype.name.startswith("bfloat") else None)
        if kept.dtype.kind not in "biuf":
            raise _Unknown
        return kept if isinstance(value, np.ndarray) else kept.item()
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, (list, tuple)):
        return [_simple(part) for part in value]
    raise _Unknown


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(np.array_equal(one, other))
