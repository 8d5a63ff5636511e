"""How the demonstration trains its models: resumably, with one history a model."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_kd.data.batches import PassOrder
from keras_kd.distilling.backup import BackupAndRestore
from keras_kd.models.opening import open_model
from keras_kd.system.files import atomic_path
from keras_kd.system.reading import read_json

History = dict[str, Any]


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers itself; others only emulate it, slowly."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Create layers under the dtype policy `name`, then put the global policy back."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def with_policy(build: Callable[[], keras.Model], model: keras.Model, name: str) -> keras.Model:
    """Return the model of `build()` under another dtype policy, with the weights of `model`."""
    with dtype_policy(name):
        copy = build()
    copy.set_weights(model.get_weights())
    return copy


def momentum_optimizer(
    learning_rate: float, weight_decay: float | None, steps: int
) -> keras.optimizers.Optimizer:
    """Return SGD with Nesterov momentum and a cosine schedule, a tenth of `steps` for warm-up."""
    warmup = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / 10,
        decay_steps=steps - warmup,
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.SGD(
        schedule, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    if weight_decay is not None:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def fit_resumably(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    epochs: int,
    folder: pathlib.Path,
    name: str,
    verbose: int,
    seed: int = 0,
) -> History:
    """Fit a compiled model; a run that was killed resumes at the epoch it was in.

    The backup stays, so that a run that is killed before its model is saved does not train again:
    see `forget_training`.

    Args:
        model: A compiled model.
        train: Batches of the training split, or a `PassOrder` of them.
        validation: Batches of the validation split.
        epochs: Passes over `train`.
        folder: Where the backup is kept.
        name: What its name begins with.
        verbose: As in `keras.Model.fit`.
        seed: Of a `PassOrder`. Defaults to `0`.

    Returns:
        A list per metric with a value per epoch, and the `seconds` of this call.
    """
    start = time.perf_counter()
    backup = _backup(folder, name)
    if isinstance(train, PassOrder):
        train = train.make(seed, backup.epochs_done())
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # the data set is shuffled already; Keras warns of its own default
        callbacks=[backup],
        verbose=verbose,
    )
    seconds = time.perf_counter() - start
    return {"epoch": list(range(epochs)), **backup.history, "seconds": seconds}


def forget_training(folder: pathlib.Path, name: str) -> None:
    """Remove what `fit_resumably` keeps, once its model is saved."""
    _backup(folder, name).delete()


def _backup(folder: pathlib.Path, name: str) -> BackupAndRestore:
    return BackupAndRestore(folder / f"{name}.backup", delete_checkpoint=False)


def train_or_load(
    path: pathlib.Path,
    train: Callable[[], tuple[Any, History]],
    load: Callable[[pathlib.Path], Any] = open_model,
) -> tuple[Any, History]:
    """Return the model that an earlier run saved, or train and save it.

    Args:
        path: The model's file; its history stands beside it, in `<name>.history.json`.
        train: Returns the model, which has a `save(path)`, and its history.
        load: Reads the file. Defaults to `open_model`.

    Returns:
        The model and its history.
    """
    history_path = path.with_suffix(".history.json")
    if path.exists() and history_path.exists():
        return load(path), read_json(history_path)
    model, history = train()
    with atomic_path(path) as temporary:
        model.save(temporary)
    with atomic_path(history_path) as temporary:
        temporary.write_text(json.dumps(history))
    forget_training(path.parent, path.stem)
    return model, history
