"""How the demonstration trains its models: resumably, with one history a model."""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras

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
) -> History:
    """Fit a compiled model; a run that was killed goes on at the epoch it was in.

    Args:
        model: A compiled model.
        train: Batches of the training split.
        validation: Batches of the validation split.
        epochs: Passes over `train`.
        folder: Where the backup and the log of epochs are kept.
        name: What their names begin with.
        verbose: As in `keras.Model.fit`.

    Returns:
        One list a metric with a value an epoch, and the `seconds` of this call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.epochs.csv"
    start = time.perf_counter()
    model.fit(
        train,
        validation_data=validation,
        epochs=epochs,
        shuffle=False,  # the data set is shuffled already; Keras warns of its own default
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / f"{name}.backup")),
            keras.callbacks.CSVLogger(str(log), append=True),
        ],
        verbose=verbose,
    )
    seconds = time.perf_counter() - start
    with log.open(newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    ordered = [rows[epoch] for epoch in sorted(rows)]
    history: History = {key: [float(row[key]) for row in ordered] for key in ordered[0]}
    return {**history, "seconds": seconds}


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
    return model, history
