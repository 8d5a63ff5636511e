"""Training that resumes at the epoch in which it was killed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.compression.running.stage_callbacks import CallbackStates, forget_private_states
from keras_kd.system.backups import read_backup, write_backup
from keras_kd.system.json_values import history_value, plain_history
from keras_kd.system.reading import parse_json, read_arrays

History = dict[str, list[Any]]


class EpochBackup:
    """Everything that a training needs to go on, in one file that is written after every epoch.

    A process that is killed leaves a whole file of the last epoch, or of the one before.

    Args:
        path: The file; ends in `.npz`.
        seed: What random layers begin with, so that a training that is begun again is the same.

    Attributes:
        seconds_before: How long the training took in the processes that were killed.
        stopped: Whether a callback had ended the training, once resumed.
        callbacks: What the callbacks had learned and the arrays in it, once resumed; `None` where
            nothing is kept.
    """

    def __init__(self, path: str | os.PathLike[str], seed: int) -> None:
        self.path = pathlib.Path(path)
        self.seed = seed
        self.seconds_before = 0.0
        self.stopped = False
        self.callbacks: tuple[list[dict[str, Any]], list[np.ndarray]] | None = None
        self._start = time.perf_counter()

    def epochs_done(self) -> int:
        """Return the number of whole epochs that are kept."""
        kept = read_backup(self.path, _read)
        return 0 if kept is None else int(kept[0]["epochs"])

    def resume(self, variables: Sequence[Any], random_states: Sequence[Any]) -> tuple[int, History]:
        """Set variables to what they were at the end of the last whole epoch.

        Args:
            variables: Weights, the optimizer's variables, masks; of Keras 3 or TensorFlow.
            random_states: States of random layers. They are set in a new training as well.

        Returns:
            The number of whole epochs, and their history.

        Raises:
            ValueError: If the file is of another training.
        """
        for i, state in enumerate(random_states):
            drawn = np.random.default_rng([self.seed, i])
            values = drawn.integers(0, 2**31, state.shape)
            state.assign(values.astype(np.dtype(str(keras.backend.standardize_dtype(state.dtype)))))
        kept = read_backup(self.path, _read)
        if kept is None:
            return 0, {}
        every = [*variables, *random_states]
        content, values, learned = kept
        if [tuple(value.shape) for value in values] != [tuple(v.shape) for v in every]:
            raise ValueError(
                f"'{self.path}' holds a training of other variables. It was written by another "
                "version of the model or of the stage: give a new folder as `path`."
            )
        for variable, value in zip(every, values, strict=True):
            variable.assign(value)
        self.seconds_before = content["seconds"]
        # Backups of earlier versions know of no callbacks.
        self.stopped = content.get("stopped", False)
        self.callbacks = (content["callbacks"], learned) if "callbacks" in content else None
        return int(content["epochs"]), content["history"]

    def save(
        self,
        epochs: int,
        variables: Sequence[Any],
        random_states: Sequence[Any],
        history: History,
        stopped: bool = False,
        callbacks: CallbackStates | None = None,
    ) -> None:
        """Write the file.

        Args:
            epochs: The number of whole epochs.
            variables: As given to `resume`.
            random_states: As given to `resume`.
            history: One list per metric.
            stopped: Whether a callback has ended the training. Defaults to `False`.
            callbacks: What the callbacks have learned. Defaults to `None`: there are none.
        """
        states, learned = ([], []) if callbacks is None else callbacks.learned()
        arrays: dict[str, Any] = {
            f"variable_{i}": _storable(variable)
            for i, variable in enumerate([*variables, *random_states])
        }
        arrays |= {f"learned_{i}": value for i, value in enumerate(learned)}
        progress = json.dumps(
            {
                "epochs": epochs,
                "history": history,
                "seconds": self.seconds_before + time.perf_counter() - self._start,
                "stopped": stopped,
                "callbacks": states,
            }
        )
        write_backup(self.path, lambda file: np.savez(file, progress=np.array(progress), **arrays))


def _read(path: pathlib.Path) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray]]:
    arrays = read_arrays(path)
    try:
        content = parse_json(str(arrays["progress"]), path)
        learned = sum(name.startswith("learned_") for name in arrays)
        return (
            content,
            [arrays[f"variable_{i}"] for i in range(len(arrays) - 1 - learned)],
            [arrays[f"learned_{i}"] for i in range(learned)],
        )
    except KeyError as error:
        raise ValueError(f"'{path}' is not a backup of a training: it has no {error}.") from None


def _storable(variable: Any) -> np.ndarray:
    value = np.asarray(keras.ops.convert_to_numpy(variable))
    # NumPy's format does not know bfloat16.
    return value.astype("float32") if value.dtype.kind == "V" else value


def resumable_fit(
    trainer: Any,
    data: Any,
    backup: EpochBackup | None,
    variables: Sequence[Any],
    random_states: Sequence[Any],
    *,
    epochs: int,
    callbacks: Sequence[Any] = (),
    watching: Sequence[Any] = (),
    **arguments: Any,
) -> History:
    """Fit, or go on where a killed process left off.

    Args:
        trainer: A compiled model.
        data: The training data.
        backup: Where the state is kept, or `None` to keep nothing.
        variables: Everything that changes while training, but for the states of random layers.
        random_states: The states of random layers.
        epochs: Number of epochs.
        callbacks: Callbacks whose state is in `variables`; their work at the end of an epoch is
            done before the state is kept. Defaults to none.
        watching: The user's callbacks, which come after those; what they have learned is kept.
            Defaults to none.
        **arguments: Further arguments of `fit`.

    Returns:
        The history of all epochs, also of those before the process was killed.
    """
    forget_private_states(watching)
    if backup is None:
        fitted = trainer.fit(data, epochs=epochs, callbacks=[*callbacks, *watching], **arguments)
        return plain_history(fitted.history)
    done, history = backup.resume(variables, random_states)
    states: list[CallbackStates] = []

    def begin(logs: Any = None) -> None:
        # The callbacks have forgotten the training before this one.
        states[:] = [CallbackStates(watching)]
        if backup.callbacks is not None:
            states[0].restore(*backup.callbacks)

    def keep(epoch: int, logs: Any = None) -> None:
        for key, value in (logs or {}).items():
            history.setdefault(key, []).append(history_value(value))
        stopped = bool(trainer.stop_training)
        backup.save(epoch + 1, variables, random_states, history, stopped, states[0])

    last = keras.callbacks.LambdaCallback(on_train_begin=begin, on_epoch_end=keep)
    trainer.fit(
        data,
        epochs=epochs,
        # Callbacks end a training that was over, too.
        initial_epoch=epochs if backup.stopped else min(done, epochs),
        callbacks=[*callbacks, *watching, last],
        **arguments,
    )
    return history


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw from generators that begin with `seed`, and put the caller's back at the end.

    Keras takes the seeds of new weights and random layers from Python's generator.
    What the process did before, such as a module that was imported already, changes nothing here.

    Args:
        seed: The seed.
    """
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def stage_seed(seed: int, index: int, attempt: int) -> int:
    """Return the seed of an attempt at a stage of a run with the seed `seed`."""
    return (seed + 1000 * index + attempt) % 2**32
