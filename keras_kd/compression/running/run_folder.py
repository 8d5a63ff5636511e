"""The folder of a run of `compress`: the result of every stage, and where a killed run resumes.

`run.json` holds:

- `"format"`: `"keras_kd.compress 1"`.
- `"plan"`: what the run is of, as `run_plan` makes it: `"student"`, `"teacher"`, `"objective"`,
  `"stages"`, `"data"`, `"max_drop"`, `"reference"`, `"retries"`.
- `"seed"`: what everything that is drawn at random begins with.
- `"before"`: the `StageRecord` of the student before the first stage.
- `"files"`: the SHA-256 of each file below, by its name.
- `"stages"`: for each stage that is done, in order: `"record"`, its `StageRecord` with
  configuration, outcome, metrics, parameters, zeros and seconds; `"history"`, one list per metric;
  `"model"`, the name of the file, which `load_compressed` reads; `"state"`, what the next stage
  needs to know; `"callbacks"`, the name of the file of what callbacks have learned, if they have.
  NaN and infinity are null, and NaN when they are read again.

While a stage runs, `stage_<i>_<name>.attempt_<n>.npz` holds the training at the end of its last
whole epoch.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.compression.running.epoch_backup import EpochBackup, stage_seed
from keras_kd.compression.running.run_plan import with_new_arguments
from keras_kd.compression.running.stage_record import StageRecord, record_from_json
from keras_kd.compression.running.student_files import (
    OLD_STUDENT,
    as_json,
    classes_of,
    load_student,
    state_from_json,
    state_to_json,
)
from keras_kd.compression.stages.stage import StudentState
from keras_kd.models.graph import flat_layers
from keras_kd.system.files import atomic_path, check_writable, sha256, write_json
from keras_kd.system.reading import parse_json, read_arrays, read_json
from keras_kd.system.user_warning import warn_user

_FORMAT = "keras_kd.compress 1"
# The names that `atomic_path` gives to the files of a run until they are whole.
_UNFINISHED = re.compile(r"\.(run|before|stage_\d+_).*\.[0-9a-f]{12}\.[a-z0-9]+")


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; made if it does not exist.
        plan: What the run is of, as of `run_plan`.
        student: The student before the first stage.
        seed: What a new run begins with.

    Raises:
        ValueError: If the folder holds another run, or files that this run would overwrite.
        OSError: If the folder cannot be written to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: Mapping[str, Any],
        student: keras.Model,
        seed: int,
    ) -> None:
        self.path = pathlib.Path(path)
        self._classes = classes_of(student)
        self._kinds = {type(layer).__name__ for layer in flat_layers(student)}
        self._names = [stage["config"].get("name", stage["class"]) for stage in plan["stages"]]
        file = check_writable(self.path / "run.json")
        if file.exists():
            self._content = self._read(file, plan)
            self._tidy()
            return
        for stem in ["before.", *(self._stem(i) for i in range(len(self._names)))]:
            for stray in sorted(self.path.glob(f"{stem}*")):
                raise ValueError(
                    f"'{self.path}' holds '{stray.name}' but no run.json: this run would "
                    "overwrite it. Give a new folder as `path`, or remove that file."
                )
        self._content = {
            "format": _FORMAT,
            "plan": plan,
            "seed": seed,
            "before": None,
            "files": {},
            "stages": [],
        }
        self._write()

    def _read(self, file: pathlib.Path, plan: Mapping[str, Any]) -> dict[str, Any]:
        try:
            content = read_json(file)
            kept = content["plan"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"'{file}' is not a record of `compress`. Pass a new folder as `path`."
            ) from error
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"'{file}' was written in the format {content.get('format')!r}, and this version "
                f"reads {_FORMAT!r}. Give a new folder as `path`."
            )
        differing = differences(kept, plan)
        if differing:
            raise ValueError(
                f"'{self.path}' holds another run, which differs in {'; '.join(differing)}. Give a "
                "new folder as `path`, or remove that one. To resume it, pass the arguments it was "
                "started with: a student is the same only if it is loaded from a file, not trained "
                "again."
            )
        ends = [part["data"].get("train ends") or [] for part in (kept, plan)]
        if any(one != other for one, other in zip(*ends, strict=False)):
            # The last batch is looked at in a `keras.utils.PyDataset` alone.
            warn_user(
                "The first batch of the training data (or the last one of a PyDataset) has "
                f"changed since the run in '{self.path}' started: the data or its order is "
                "different. Finished stages are kept. For other data, pass a new folder as `path`."
            )
        return content

    def _stem(self, index: int) -> str:
        return f"stage_{index + 1}_{self._names[index]}"

    def _write(self) -> None:
        write_json(self.path / "run.json", self._content)

    @property
    def seed(self) -> int:
        """What everything that is drawn at random begins with."""
        return int(self._content["seed"])

    @property
    def before(self) -> StageRecord | None:
        """The record of the student before the first stage, if it was made."""
        before = self._content["before"]
        return None if before is None else record_from_json(before)

    def keep_before(self, record: StageRecord, variables: Sequence[Any]) -> None:
        """Keep what there was before the first stage.

        Args:
            record: The figures of the student.
            variables: What is trained beside the student: projections of hints.
        """
        self._write_variables("before", variables)
        self._content["before"] = as_json(dataclasses.asdict(record))
        self._write()

    def load_before(self, variables: Sequence[Any]) -> None:
        """Set the variables of `keep_before` to what they were."""
        self._load_variables("before", variables)

    def _write_variables(self, stem: str, variables: Sequence[Any]) -> None:
        if variables:
            name = f"{stem}.projections.npz"
            with atomic_path(self.path / name) as temporary:
                np.savez(temporary, *[keras.ops.convert_to_numpy(v) for v in variables])
            self._written(name)

    def _written(self, name: str) -> None:
        """Note the checksum of a file; it counts once `run.json` is written."""
        self._content.setdefault("files", {})[name] = sha256(self.path / name)

    def _checked(self, name: str) -> pathlib.Path:
        """Return the path of a file of this run.

        Raises:
            ValueError: If it is not there, or not the file that was written.
        """
        file = self.path / name
        known = self._content.get("files", {}).get(name)
        # Runs of earlier versions have no checksums.
        if file.is_file() and known in (None, sha256(file)):
            return file
        raise ValueError(
            f"'{file}' is {'not the file that this run wrote' if file.is_file() else 'missing'}. "
            "Put the file of this run back, or give a new folder as `path`."
        )

    def _load_variables(self, stem: str, variables: Sequence[Any]) -> None:
        name = f"{stem}.projections.npz"
        if name in self._content.get("files", {}) or (self.path / name).exists():
            arrays = list(read_arrays(self._checked(name)).values())
            if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
                raise ValueError(
                    f"'{self.path / name}' does not hold the projections of this run's hints."
                )
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)

    @property
    def done(self) -> int:
        """Number of stages that are done."""
        return len(self._content["stages"])

    def backup(self, index: int, attempt: int) -> EpochBackup:
        """Return where the training of an attempt at a stage is kept."""
        return EpochBackup(
            self.path / f"{self._stem(index)}.attempt_{attempt + 1}.npz",
            seed=stage_seed(self.seed, index, attempt),
        )

    def keep(
        self,
        index: int,
        record: StageRecord,
        state: StudentState,
        variables: Sequence[Any],
        save: Callable[[pathlib.Path], None],
        learned: tuple[Sequence[Any], Sequence[np.ndarray]] = ((), ()),
    ) -> None:
        """Keep the result of a stage.

        Args:
            index: The place of the stage, from 0.
            record: Its figures.
            state: The student after it.
            variables: What is trained beside the student: projections of hints.
            save: Writes the student to a path.
            learned: What callbacks have learned in this stage and those before it, as of
                `CallbackStates.learned`. Defaults to nothing.
        """
        stem = self._stem(index)
        model = f"{stem}.keras"
        save(self.path / model)
        self._written(model)
        self._write_variables(stem, variables)
        callbacks = self._write_learned(stem, *learned)
        self._content["stages"].append(
            as_json(
                {
                    "record": dataclasses.asdict(record),
                    "history": state.history.get(record.name, {}),
                    "model": model,
                    "state": state_to_json(state),
                    **({} if callbacks is None else {"callbacks": callbacks}),
                }
            )
        )
        self._write()
        self._tidy()

    def _write_learned(
        self, stem: str, states: Sequence[Any], arrays: Sequence[np.ndarray]
    ) -> str | None:
        if not any(state["attributes"] for state in states):
            return None
        name = f"{stem}.callbacks.npz"
        with atomic_path(self.path / name) as temporary:
            np.savez(temporary, *arrays, states=np.array(json.dumps(states)))
        self._written(name)
        return name

    def learned(self, index: int) -> tuple[list[Any], list[np.ndarray]]:
        """Return what callbacks had learned at the end of a stage.

        Args:
            index: The place of the stage, from 0.

        Raises:
            ValueError: If the file is missing or of another run.
        """
        name = f"{self._stem(index)}.callbacks.npz"
        if self._content["stages"][index].get("callbacks") != name:
            return [], []  # nothing, or a folder of an earlier version
        arrays = read_arrays(self._checked(name))
        states = parse_json(str(arrays.pop("states")), name)
        return states, [arrays[f"arr_{i}"] for i in range(len(arrays))]

    def _tidy(self) -> None:
        """Remove the backups of stages that are done, and files that killed processes began."""
        for i in range(self.done):
            for backup in self.path.glob(f"{self._stem(i)}.attempt_*"):
                backup.unlink()
        for file in list(self.path.iterdir()):
            if _UNFINISHED.fullmatch(file.name):
                file.unlink()

    def load(
        self, index: int, variables_of: Callable[[StudentState], Sequence[Any]]
    ) -> tuple[StageRecord, StudentState]:
        """Return what `keep` kept.

        Args:
            index: The place of the stage, from 0.
            variables_of: Gives the variables beside the student; they are set.

        Raises:
            ValueError: If a file is missing or of another run.
        """
        stem, content = self._stem(index), self._content["stages"][index]
        if content["model"] == f"{stem}.h5":
            raise ValueError(OLD_STUDENT.format(self.path / content["model"]))
        if content["model"] != f"{stem}.keras":
            raise ValueError(
                f"'{self.path / 'run.json'}' gives '{content['model']}' as the model of a stage, "
                f"which is not a file of this run. Give a new folder as `path`."
            )
        # Code is only taken from a file where the student that was given holds code itself.
        safe_mode = "Lambda" not in self._kinds
        state = state_from_json(
            # The stages that follow add to it, and this one's stays what it was.
            copy.deepcopy(content["state"]),
            load_student(self._checked(content["model"]), self._classes, safe_mode),
        )
        self._load_variables(stem, variables_of(state))
        return record_from_json(content["record"]), state

    def records(self) -> list[StageRecord]:
        """Return the records of the stages that are done."""
        return [record_from_json(stage["record"]) for stage in self._content["stages"]]


_TITLES = {
    "student": "the student",
    "teacher": "the teacher",
    "objective": "the losses",
    "data": "the data",
}


def differences(kept: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two plans.

    What a plan of an earlier version does not know, arguments that were added since, counts as
    equal where it has its default.
    """
    kept = with_new_arguments(kept, plan)
    found = []
    for key, title in _TITLES.items():
        theirs, ours = kept.get(key), plan[key]
        theirs, ours = _comparable(theirs, ours), _comparable(ours, theirs)
        if theirs != ours:
            parts = _changed(theirs, ours)
            found.append(f"{title} ({', '.join(parts)})" if parts else title)
    theirs, ours = kept.get("stages", []), plan["stages"]
    for i in range(max(len(theirs), len(ours))):
        before = theirs[i] if i < len(theirs) else None
        now = ours[i] if i < len(ours) else None
        if before == now:
            continue
        if before is None or now is None or before["class"] != now["class"]:
            names = [stage["class"] if stage else "nothing" for stage in (before, now)]
            found.append(f"stage {i + 1} ({names[0]} there, {names[1]} here)")
        else:
            parts = _changed(before["config"], now["config"])
            found.append(f"stage {i + 1}, {now['class']} ({', '.join(parts)})")
    for key in ("max_drop", "reference", "retries"):
        if kept.get(key) != plan.get(key):
            found.append(f"`{key}` ({kept.get(key)!r} there, {plan.get(key)!r} here)")
    return found


def _comparable(data: Any, other: Any) -> Any:
    """Return what two runs both know, for what earlier versions did not know.

    `None` stands for data that changes from pass to pass, which is not the same as data that does
    not: only keys that are missing are skipped.
    """
    if not isinstance(data, Mapping) or not isinstance(other, Mapping):
        return data
    return {
        key: value
        for key, value in data.items()
        if not key.endswith(" ends")
        and (key in other or not key.endswith((" contents", "architecture", "loss_weights")))
    }


def _changed(theirs: Any, ours: Any) -> list[str]:
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping):
        return [f"{theirs!r} there, {ours!r} here"]
    parts = []
    for key in ours:
        before, now = theirs.get(key), ours[key]
        if before == now:
            continue
        short = len(repr(before)) + len(repr(now)) < 120
        hashed = key == "weights" or key.endswith(" contents")
        shown = f": {before!r} there, {now!r} here" if short and not hashed else ""
        parts.append(f"{key}{shown}")
    return parts
