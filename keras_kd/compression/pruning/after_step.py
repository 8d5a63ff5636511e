"""What is done after each step of a model's training, inside its compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_HOOKS = "_keras_kd_after_step"


def run_after_step(model: keras.Model, name: str, function: Callable[[], None]) -> None:
    """Let `function` run at the end of every `train_step` of `model`.

    It becomes a part of the compiled step, so it also runs within `steps_per_execution`, under
    XLA and in the replicas of a strategy.

    Args:
        model: The model that is trained.
        name: A name for the function; it replaces one of the same name.
        function: Called without arguments while the step is traced.
    """
    hooks = model.__dict__.get(_HOOKS)
    if hooks is None:
        hooks = {}
        step = model.train_step

        @tf.autograph.experimental.do_not_convert
        def train_step(*args: Any, **kwargs: Any) -> Any:
            logs = step(*args, **kwargs)
            for hook in hooks.values():
                hook()
            return logs

        object.__setattr__(model, _HOOKS, hooks)
        object.__setattr__(model, "train_step", train_step)
    hooks[name] = function
    model.make_train_function(force=True)


def stop_after_step(model: keras.Model, name: str) -> None:
    """Undo `run_after_step`; the last one leaves the model as it was."""
    hooks = model.__dict__.get(_HOOKS, {})
    if hooks.pop(name, None) is None:
        return
    model.train_function = None
    if not hooks:
        object.__delattr__(model, _HOOKS)
        object.__delattr__(model, "train_step")
