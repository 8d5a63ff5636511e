"""Running the stages: measured, kept in a folder, tried again more gently."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.compression.running.compressed_model import CompressedModel
from keras_kd.compression.running.drop_limit import (
    DropLimit,
    check_direction,
    drop_of,
    evaluate_teacher,
)
from keras_kd.compression.running.epoch_backup import drawn_from, stage_seed
from keras_kd.compression.running.run_folder import RunFolder
from keras_kd.compression.running.stage_callbacks import CallbackStates, each_once
from keras_kd.compression.running.stage_record import StageRecord, counts, first_metric, stage_line
from keras_kd.compression.running.student_files import as_json, config_of
from keras_kd.compression.running.teaching import Teaching
from keras_kd.compression.stages.layer_record import layer_records
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.models.weights import check_finite_weights, has_finite_weights
from keras_kd.system.arguments import exceeds
from keras_kd.system.user_warning import warn_user


@dataclasses.dataclass(eq=False)
class StageRuns:
    """Runs the stages of one call of `compress`.

    Attributes:
        student: The student as given; it is not changed.
        teaching: The objective and the data.
        copy_student: Returns a copy of a Keras 3 student.
        folder: The run's folder, or `None`.
        limit: How much a stage may cost, or `None`.
        reference: `"student"` or `"teacher"`: what drops are measured against.
        seed: What everything that is drawn at random begins with.
        callbacks: The user's callbacks of each stage.
        records: What came out of the stages that are done, and the student before the first.
    """

    student: keras.Model
    teaching: Teaching
    copy_student: Callable[[keras.Model], keras.Model]
    folder: RunFolder | None
    limit: DropLimit | None
    reference: str
    seed: int
    callbacks: Sequence[Sequence[keras.callbacks.Callback]]
    records: list[StageRecord] = dataclasses.field(default_factory=list, init=False)
    _reference: Mapping[str, float] | None = dataclasses.field(default=None, init=False)

    def run(self, stages: Sequence[Stage], state: StudentState) -> StudentState:
        """Run the stages that are not done yet, and return the student after the last one."""
        folder, verbose = self.folder, self.teaching.verbose
        done = 0 if folder is None else folder.done
        learning = CallbackStates([] if folder is None else each_once(self.callbacks))
        self._begin(state)
        if folder is not None and done:
            self.records += folder.records()
            _, state = folder.load(done - 1, self._projections)
            if done < len(stages):
                _remember(learning, *folder.learned(done - 1))
            if verbose:
                print(f"{folder.path}: {done} of {len(stages)} stages are done")
        for i, stage in enumerate(stages[done:], start=done):
            if verbose:
                epochs = f"{stage.epochs} epoch{'' if stage.epochs == 1 else 's'}"
                print(f"Stage {i + 1} of {len(stages)}: {type(stage).__name__}, {epochs}")
            record, state = self._stage(i, stage, state, stages[:i])
            self.records.append(record)
            if verbose:
                print(f"{type(stage).__name__} {record.outcome}: {stage_line(record)}")
            if folder is not None:
                result = self.result(state)
                # After the last stage no callback is asked again.
                learned = learning.learned() if i + 1 < len(stages) else ([], [])
                folder.keep(i, record, state, self._projections(state), result.save, learned)
        return state

    def result(self, state: StudentState) -> CompressedModel:
        """Return the compressed model of a state."""
        return CompressedModel(
            state.model,
            layer_records(self.student, state),
            state.history,
            state.quantization_aware,
            self.teaching.measures,
            self.records,
            state.quantization,
            state.clustered,
        )

    def _begin(self, state: StudentState) -> None:
        folder = self.folder
        before = None if folder is None else folder.before
        validation = self.teaching.validation_data
        result = self.result(state)
        if before is None:
            metrics = self._evaluate(result)
            reference: Mapping[str, float] | None = metrics
            if self.reference == "teacher" and validation is not None and first_metric(metrics):
                reference = evaluate_teacher(self.teaching.distiller, validation)
            self._reference = reference
            if self.limit is not None:
                check_direction(result.metrics, first_metric(metrics))
            config = {} if not reference else {"reference": {self.reference: dict(reference)}}
            before = self._record(result, "student", "", config, "before", 0, 0.0, metrics=metrics)
            if folder is not None:
                folder.keep_before(before, self._projections(state))
        elif folder is not None:
            folder.load_before(self._projections(state))
            self._compare(before.metrics, self._evaluate(result))
        self._reference = before.config.get("reference", {}).get(self.reference)
        self.records.append(before)

    def _compare(self, kept: Mapping[str, float], now: Mapping[str, float]) -> None:
        """Warn where the student before the first stage has other figures than when it began."""
        for name, value in now.items():
            before = kept.get(name)
            if before is not None and abs(value - before) > 1e-3 * max(1.0, abs(before)):
                warn_user(
                    f"Before compression the student has a {name} of {value:.4f} on the validation "
                    f"data, and had {before:.4f} when this run started: the validation data have "
                    "changed, or change with each pass. The figures of finished stages are kept. "
                    "For other data, pass a new folder as `path`."
                )
                return

    def _evaluate(self, result: CompressedModel) -> dict[str, float]:
        data = self.teaching.validation_data
        if data is None or (result.loss is None and result.metrics is None):
            return {}
        return result.evaluate(data)

    def _record(
        self,
        result: CompressedModel,
        name: str,
        stage: str,
        config: Mapping[str, Any],
        outcome: str,
        epochs: int,
        seconds: float,
        metrics: Mapping[str, float] | None = None,
        attempts: Sequence[Mapping[str, Any]] = (),
    ) -> StageRecord:
        metrics = self._evaluate(result) if metrics is None else metrics
        return StageRecord(
            name=name,
            stage=stage,
            config=config,
            outcome=outcome,
            epochs=epochs,
            metrics=metrics,
            metric=first_metric(metrics),
            drop=drop_of(metrics, self._reference, result.metrics, self.limit is not None),
            seconds=seconds,
            attempts=tuple(attempts),
            **counts(result.model, result.count_params()),
        )

    def _stage(
        self, index: int, stage: Stage, state: StudentState, earlier: Sequence[Stage]
    ) -> tuple[StageRecord, StudentState]:
        kind, limit = type(stage).__name__, self.limit
        attempts: list[dict[str, Any]] = []
        seconds = 0.0
        candidate: Stage | None = stage
        for attempt in range(1 if limit is None else 1 + limit.retries):
            if candidate is None:
                break
            trial = state if limit is None else self._copy(state)
            projections, refitted = self._projection_values(state), dict(self.teaching.refitted)
            seconds += self._train(index, attempt, candidate, trial, earlier)
            record = self._record(
                self.result(trial),
                stage.name,
                kind,
                as_json(config_of(candidate)),
                "done more gently" if attempts else "done",
                _epochs_of(trial.history.get(stage.name), candidate),
                seconds,
                attempts=attempts,
            )
            if limit is None:
                check_finite_weights(trial.model, f"student after the stage '{stage.name}'")
                return record, trial
            if record.drop is None:
                raise ValueError(
                    "`max_drop` cannot be kept: the run began with other metrics. Received: "
                    f"metrics {', '.join(record.metrics)}. Compile with those it began with, "
                    "or give a new folder as `path`."
                )
            finite = has_finite_weights(trial.model)
            if finite and not exceeds(record.drop, limit.points):
                return record, trial
            attempts.append(
                {"config": record.config, "metrics": dict(record.metrics), "drop": record.drop}
            )
            for variable, value in projections:
                variable.assign(value)
            self.teaching.refitted = refitted
            candidate = candidate.gentler()
            if candidate is not None and candidate.plan(state.model, earlier).refused:
                candidate = None  # so little is nothing at all
            if self.teaching.verbose:
                why = f"costs {record.drop:.2f} points, and max_drop is {limit.points:g}"
                print(
                    f"{kind} {why if finite else 'leaves weights that are NaN or infinite'}: "
                    + ("left out" if candidate is None or attempt == limit.retries
                       else f"again with {_changes(attempts[-1]['config'], candidate)}")
                )  # fmt: skip
        record = self._record(
            self.result(state), stage.name, kind, as_json(config_of(stage)), "left out", 0,
            seconds, attempts=attempts,
        )  # fmt: skip
        return record, state

    def _train(
        self,
        index: int,
        attempt: int,
        stage: Stage,
        state: StudentState,
        earlier: Sequence[Stage],
    ) -> float:
        backup = None if self.folder is None else self.folder.backup(index, attempt)
        self.teaching.backup, self.teaching.callbacks = backup, self.callbacks[index]
        start = time.perf_counter()
        check_finite_weights(state.model, f"student before the stage '{stage.name}'")
        try:
            with drawn_from(stage_seed(self.seed, index, attempt)):
                stage.plan(state.model, earlier).apply(state, self.teaching)
        finally:
            self.teaching.backup, self.teaching.callbacks = None, ()
        before = 0.0 if backup is None else backup.seconds_before
        return before + time.perf_counter() - start

    def _copy(self, state: StudentState) -> StudentState:
        rest = {
            field.name: copy.deepcopy(getattr(state, field.name))
            for field in dataclasses.fields(state)
            if field.name != "model"
        }
        return StudentState(self.copy_student(state.model), **rest)

    def _projections(self, state: StudentState) -> list[Any]:
        distiller = self.teaching.distiller
        if not distiller.objective.layers:
            return []
        layers = self.teaching.objective_for(state).layers
        return [variable for layer in layers for variable in layer.variables]

    def _projection_values(self, state: StudentState) -> list[tuple[Any, Any]]:
        if self.limit is None:
            return []
        return [(v, keras.ops.convert_to_numpy(v)) for v in self._projections(state)]


def _remember(
    learning: CallbackStates, states: Sequence[Mapping[str, Any]], arrays: Sequence[Any]
) -> None:
    """Let callbacks know what they had learned in the stages that are done."""
    if not states:
        return
    if differing := learning.differs(states):
        warn_user(
            f"The stages that are done ran with other `callbacks` {differing}. What those had "
            "learned, such as the best value of a ModelCheckpoint, is forgotten. Pass the "
            "callbacks that the run was started with to keep it."
        )
        return
    learning.restore(states, arrays)


def _epochs_of(history: Mapping[str, Sequence[float]] | None, stage: Stage) -> int:
    """Return how many epochs were trained: a callback may have ended the training."""
    return len(next(iter(history.values()))) if history else stage.epochs


def _changes(before: Mapping[str, Any], stage: Stage) -> str:
    now = as_json(config_of(stage))
    return ", ".join(f"{key}={now[key]}" for key in now if now[key] != before.get(key))
