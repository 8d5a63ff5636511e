"""BackupAndRestore: a `fit` that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import shutil
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_kd.distilling.balancing import balanced_weights
from keras_kd.distilling.trainer import InsteadOnce, Trainer, averages_of, begin_at_epoch
from keras_kd.system.backups import read_backup, remove_backup, write_backup
from keras_kd.system.json_values import history_value
from keras_kd.system.shown_text import first_line

_WEIGHTS, _PROGRESS, _STATES = "model.weights.h5", "progress.json", "states.npz"


class BackupAndRestore(keras.callbacks.Callback):
    """Backs up a training, and resumes it: `keras.callbacks.BackupAndRestore`, written atomically.

    A drop-in for Keras's callback, whose arguments it takes. Keras writes its two files in place:
    a process that is killed in between leaves a backup that breaks every later run. Here a backup
    is one file that is written aside and then renamed, and the previous one is kept: wherever the
    process is killed, the same `fit` resumes. A damaged backup is replaced by the previous one,
    with a warning.

    Besides weights, optimizer and epoch, a backup holds the states of random layers, the masks of a
    `keras_kd.Prune` callback, the history, and with `save_freq` in batches the batch: the
    finished batches of that epoch are skipped. A resumed run ends with the weights of an
    uninterrupted one if every epoch gives the same batches in both. The state of other callbacks,
    such as the best epoch of `EarlyStopping`, is not kept; whether `SwapEMAWeights` has put the
    averages into the model is.

    Args:
        backup_dir: The folder of the backups, of this training alone.
        save_freq: `"epoch"`, or a number of batches after which a backup is written; `False` writes
            none. Defaults to `"epoch"`.
        double_checkpoint: Has no effect: the backup before the newest is always kept. Defaults to
            `False`.
        delete_checkpoint: Whether to remove the backups at the end of the training. Defaults to
            `True`.

    Attributes:
        history: One list per metric, with the values of all epochs, also of those before the
            interruption; `fit` returns those of its own epochs.
        seconds: How long the training took, with what was done before the interruption up to the
            last backup.

    Raises:
        ValueError: If `backup_dir` is empty or an address, `save_freq` is neither, the model is not
            built, or the backup is of another model.
        OSError: If the backup cannot be written.

    Example:

    ```python
    backup = keras_kd.BackupAndRestore("runs/student.backup")
    distiller.fit(train, epochs=10, callbacks=[backup])
    ```
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        if not os.fspath(backup_dir) or "://" in os.fspath(backup_dir):
            raise ValueError(
                "`backup_dir` must be a folder of this machine's file system. "
                f"Received: backup_dir={backup_dir!r}."
            )
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 0):
            raise ValueError(
                '`save_freq` must be "epoch", a number of batches, or False. '
                f"Received: save_freq={save_freq!r}."
            )
        self.backup_dir = backup_dir
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self.history: dict[str, list[Any]] = {}
        self.seconds = self._start = 0.0
        self._file = pathlib.Path(backup_dir) / "backup.zip"
        self._epoch = self._batches = self._unsaved = 0
        self._skipped = 0
        self._skips = False
        self._metrics: list[np.ndarray] = []
        self._random: list[np.ndarray] = []
        # A pair of `averages_of` whose values differ, and its average behind the last step.
        self._average: tuple[int, np.ndarray] | None = None

    def epochs_done(self) -> int:
        """Return the number of whole epochs that the newest whole backup holds."""
        progress = read_backup(self._file, lambda file: _read(file)[0])
        return 0 if progress is None else int(progress["epoch"])

    def on_train_begin(self, logs: Any = None) -> None:
        """Resume from the newest whole backup."""
        model = self.model
        if not model.built:
            raise ValueError(
                f"BackupAndRestore needs a model that is built before `fit`, and '{model.name}' is "
                "not: call it on a batch of data first."
            )
        content = read_backup(self._file, _read)
        self.history, self._metrics = {}, []
        self.seconds, self._start = 0.0, time.perf_counter()
        self._skips = False
        self._epoch = self._batches = self._unsaved = self._skipped = 0
        if content is not None:
            self._restore(*content)
        elif (self._file.parent / "latest.weights.h5").exists():
            raise ValueError(
                f"'{self.backup_dir}' holds a backup of keras.callbacks.BackupAndRestore, whose "
                "files may not belong together. Resume it with that callback (an earlier version "
                "of this package, for its own runs), or remove the folder to begin again."
            )
        # Where `fit` takes its first epoch from.
        begin_at_epoch(model, self._epoch)

    def _restore(self, progress: Any, states: list[np.ndarray], file: pathlib.Path) -> None:
        model = self.model
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        variables = _random_states(model)
        self._random, self._metrics = states[: progress["random"]], states[progress["random"] :]
        if [tuple(v.shape) for v in variables] != [value.shape for value in self._random]:
            raise ValueError(self._foreign("it has other random layers"))
        try:
            with _weights_of(file) as weights:
                model.load_weights(weights)
        except ValueError as error:
            raise ValueError(self._foreign(first_line(error))) from error
        for learner in model.learners() if isinstance(model, Trainer) else ():
            if learner.balances and self.params.get("verbose") not in (0, "0", None):
                print(f"Of the backup: {balanced_weights(learner.objective)}")
        if progress.get("averaged"):
            # In this process SwapEMAWeights has not swapped yet. In its arithmetic, which rounds.
            for variable, average in averages_of(model.optimizer):
                variable.assign(variable + average)
                average.assign(variable - average)
                variable.assign(variable - average)
        self._restore_random_states()
        self.history = progress["history"]
        self._start -= progress.get("seconds", 0.0)
        self._epoch, self._skipped = int(progress["epoch"]), int(progress["batch"])

    def _foreign(self, reason: str) -> str:
        return (
            f"The backup in '{self.backup_dir}' is of another model ({reason}). Give another "
            "`backup_dir`, or remove that folder to begin again."
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the batches of this epoch."""
        self._epoch, self._batches = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the batches out of the data that were trained on already."""
        model = self.model
        self._skips = batch < self._skipped
        if not self._skips:
            return

        def skip(iterator: Any) -> Any:
            if batch == 0:
                # Evaluated, so that the metrics are built and can be set to what they were.
                model.make_test_function()
                model.test_function(iterator)
                self._restore_metrics()
                self._restore_random_states()  # an evaluation may draw, too
            else:
                next(iterator)
                for _ in range(1, model.steps_per_execution):
                    next(iterator, None)  # the last execution of an epoch may be a part of one
            return model.get_metrics_result()

        model.train_function = InsteadOnce(model, skip)

    def _restore_random_states(self) -> None:
        for variable, value in zip(_random_states(self.model), self._random, strict=True):
            variable.assign(value)

    def _restore_metrics(self) -> None:
        variables = self.model.metrics_variables
        if [tuple(v.shape) for v in variables] == [value.shape for value in self._metrics]:
            for variable, value in zip(variables, self._metrics, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a backup, where it is time."""
        self._note_an_average()
        done, self._batches = batch + 1 - self._batches, batch + 1
        if self._skips:
            return
        if self.save_freq == "epoch" or not self.save_freq:
            return
        self._unsaved += done
        if self._unsaved >= int(self.save_freq):
            self._unsaved = 0
            self._save(self._epoch, self._batches)

    def _note_an_average(self) -> None:
        pairs = averages_of(self.model.optimizer)
        self._average = None
        for i in sorted(range(len(pairs)), key=lambda i: int(np.prod(pairs[i][0].shape))):
            variable, average = map(_value, pairs[i])
            if not np.array_equal(variable, average):
                self._average = (i, average)
                return

    def _is_averaged(self) -> bool:
        """Whether `SwapEMAWeights`, earlier in the list, has put the averages into the model."""
        if self._average is None:
            return False
        i, noted = self._average
        variable, average = map(_value, averages_of(self.model.optimizer)[i])
        return bool(np.abs(variable - noted).sum() < np.abs(average - noted).sum())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a backup, where it is time."""
        self._skipped = 0
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(history_value(value))
        if self.save_freq == "epoch":
            self._save(epoch + 1, 0)

    def on_train_end(self, logs: Any = None) -> None:
        """Remove the backups."""
        self._count_seconds()
        begin_at_epoch(self.model, None)
        if self.delete_checkpoint:
            self.delete()

    def _count_seconds(self) -> float:
        self.seconds = time.perf_counter() - self._start
        return self.seconds

    def delete(self) -> None:
        """Remove the backups; the folder too, if nothing else is in it."""
        remove_backup(self._file)
        with contextlib.suppress(OSError):
            self._file.parent.rmdir()

    def _save(self, epoch: int, batch: int) -> None:
        model = self.model
        random = [_value(variable) for variable in _random_states(model)]
        # Of a whole epoch the metrics begin again.
        metrics = [_value(variable) for variable in model.metrics_variables] if batch else []
        progress = {
            "epoch": epoch, "batch": batch, "random": len(random), "history": self.history,
            "averaged": self._is_averaged(), "seconds": self._count_seconds(),
        }  # fmt: skip
        states = io.BytesIO()
        np.savez(states, *random, *metrics)

        def write(path: pathlib.Path) -> None:
            weights = path.with_suffix(".weights.h5")
            try:
                model.save_weights(weights)
                with zipfile.ZipFile(path, "w") as archive:
                    archive.write(weights, _WEIGHTS)
                    archive.writestr(_STATES, states.getvalue())
                    archive.writestr(_PROGRESS, json.dumps(progress))
            finally:
                weights.unlink(missing_ok=True)

        write_backup(self._file, write)


def _read(file: pathlib.Path) -> tuple[Any, list[np.ndarray], pathlib.Path]:
    """Return progress and states of a backup, whose parts were compared with their checksums."""
    with zipfile.ZipFile(file) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"'{damaged}' in it has another checksum")
        progress = json.loads(archive.read(_PROGRESS))
        with np.load(io.BytesIO(archive.read(_STATES)), allow_pickle=False) as states:
            return progress, [states[name] for name in states.files], file


@contextlib.contextmanager
def _weights_of(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Unpack the weights of a backup beside it, under a name that `remove_backup` knows."""
    weights = file.with_name(f".{file.stem}.restored.weights.h5")
    try:
        with (
            zipfile.ZipFile(file) as archive,
            archive.open(_WEIGHTS) as packed,
            open(weights, "wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        yield weights
    finally:
        weights.unlink(missing_ok=True)


def _random_states(model: keras.Model) -> list[Any]:
    """Return the states of random layers, which `save_weights` leaves out."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _value(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
