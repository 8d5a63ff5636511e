"""The trials of a search: trained, exported and measured, each in a folder of its own."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd._version import __version__
from keras_kd.caching.build import inputs_of, samples_in
from keras_kd.caching.outputs import cache, cached_views
from keras_kd.compression.compress import compress
from keras_kd.compression.running.student_files import as_json
from keras_kd.compression.running.teaching import count_batches
from keras_kd.data.batches import (
    PassOrder,
    ShuffledByPass,
    as_batches,
    shuffled_batches,
    shuffled_by_pass,
)
from keras_kd.data.first_batch import first_batch
from keras_kd.data.taught_inputs import TaughtInputs, student_inputs
from keras_kd.distilling.backup import BackupAndRestore
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.loss_values import layer_paths_of
from keras_kd.distilling.trainer import fresh_optimizer
from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.benchmark import benchmark_tflite
from keras_kd.measuring.device_cost import DeviceCost, device_cost
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.measuring.sizes import file_size, zipped_size
from keras_kd.planning.search.candidates import (
    Candidate,
    Space,
    configs_of_stages,
    folder_name,
    seed_of,
)
from keras_kd.system.files import atomic_path, write_json
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.json_values import plain
from keras_kd.system.reading import read_arrays, read_json

FORMAT = "keras_kd.search 1"
FACTOR = 3  # of successive halving: of three candidates one is trained three times as long
_BUFFER = 10_000  # examples of a dataset that are shuffled among each other
# Arguments of `evaluate_tflite` that decide on a latency.
_TIMING = ("runs", "warmup", "threads")
# Arguments of `Distiller` that change what the teacher takes or gives.
_OF_TEACHER = ("teacher_inputs", "teacher_outputs")
# What a candidate's training may end in without ending the search.
_FAILURES = (ValueError, TypeError, tf.errors.InvalidArgumentError)


class Trials:
    """Trains, exports and measures candidates.

    Whatever is done is kept in the folder and never done again: `trainings/` holds the distillers
    that were trained, shared by all candidates that differ in stages or format alone; `untrained/`
    the sizes of files before training; `trials/` a folder for each trial, whose `record.json` is
    written last.

    Args:
        folder: The folder of the search.
        teacher: The teacher.
        space: What is searched.
        train: Training data, as given to `search`.
        validation_data: What files are measured on.
        options: The other arguments of `search`, by name.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        teacher: Any,
        space: Space,
        train: Any,
        validation_data: Any,
        options: Mapping[str, Any],
    ) -> None:
        self.folder, self.teacher, self.space = folder, teacher, space
        self.raw, self.validation_data = train, validation_data
        self.options = options
        self.batches = as_batches(train, "train")
        # Until `prepare`: what students are trained on, and the same in one order.
        self.train: Any = None
        self._examples: Any = self.batches
        self.not_exported: dict[str, str] = {}  # errors of candidates that are not tried for them
        given = options["optimizer"]
        # A function of the steps: no training is the beginning of a longer one.
        self._apart = given is None or (callable(given) and not isinstance(given, type))

    @functools.cached_property
    def steps(self) -> int:
        """Steps of an epoch."""
        return count_batches(self.batches)

    def optimizer(self, epochs: int) -> keras.optimizers.Optimizer:
        """Return the optimizer of a training.

        Args:
            epochs: Epochs of the training.

        Raises:
            TypeError: If the function that was given returns no optimizer.
        """
        given = self.options["optimizer"]
        if self._apart:
            made = (given or decaying_adam)(epochs * self.steps)
            if not isinstance(made, keras.optimizers.Optimizer):
                raise TypeError(
                    "`optimizer` must be a keras.optimizers.Optimizer, its name, or a function "
                    "that returns one for a number of steps. Received: "
                    f"optimizer({epochs * self.steps})={made!r}."
                )
            given = made
        return fresh_optimizer(keras.optimizers.get(given))

    def distiller(
        self, student: keras.Model, teaching: str, epochs: int | None = None, **changed: Any
    ) -> Distiller:
        """Return a compiled distiller of a student.

        Args:
            student: The student.
            teaching: Name of the way of teaching.
            epochs: Epochs of the training. Defaults to `None`: those of a whole one.
            **changed: Arguments of `Distiller` in place of those of the way of teaching.
        """
        arguments = self.space.distiller_arguments(teaching) | changed
        distiller = Distiller(self.teacher, student, **arguments)
        optimizer = self.optimizer(epochs or self.options["epochs"])
        distiller.compile(optimizer, loss=self.options["loss"])
        return distiller

    def prepare(self) -> None:
        """Cache the teacher's outputs for all candidates."""
        if not self.options["cache_teacher"]:
            if isinstance(self.raw, tf.data.Dataset):
                self.train = self.raw
            else:
                of_batches = isinstance(self.raw, keras.utils.PyDataset)
                by_pass: Any = ShuffledByPass if of_batches else shuffled_batches
                self.train = PassOrder(functools.partial(by_pass, self.raw))
            return
        ways = self.space.teachings
        for name in _OF_TEACHER:
            if len({id(way.get(name)) for way in ways.values()}) > 1:
                raise ValueError(
                    f"The `teachings` differ in `{name}`, and one cache of the teacher's outputs "
                    f"serves them all. Received: {list(ways)}. Pass cache_teacher=False, or one "
                    "function for all."
                )
        distiller = self.distiller(next(iter(self.space.students.values()))(), next(iter(ways)))
        losses = keras.tree.flatten([way["distillation_losses"] for way in ways.values()])
        given = (distiller, self.batches, self.folder / "teacher_cache")
        layers, verbose = layer_paths_of(losses, "teacher"), bool(self.options["verbose"])
        if (views := self.options["views"]) is None:
            self._examples = cache(*given, layers=layers, verbose=verbose)
            examples: Any = self._examples.unbatch()
        else:
            view = cached_views(*given, views, layers=layers, verbose=verbose)
            self._examples = view(0)
            # What files are calibrated on must not change from process to process either.
            self.batches = self._examples.map(_without_teacher)
            of_views = [_sizes_of(view(number)) for number in range(views)]
            counts = list(map(sum, of_views))
            if len(set(counts)) > 1:
                raise ValueError(
                    "`train` must have the same number of examples in every pass. Received: "
                    f"{counts} in its {views} passes. Do not drop examples at random."
                )

            def examples(number: tf.Tensor) -> tf.data.Dataset:
                return view(number).unbatch()

        sizes = _sizes_of(self.batches) if views is None else of_views[0]
        count = sum(sizes)
        # Arrays are in memory already, and may be sorted by class.
        buffer = min(count, _BUFFER) if isinstance(self.raw, tf.data.Dataset) else count

        def shuffled(seed: int, first: int) -> tf.data.Dataset:
            order = shuffled_by_pass(examples, count, buffer, seed, first)
            return order.batch(sizes[0]).prefetch(tf.data.AUTOTUNE)

        self.train = PassOrder(shuffled)

    @functools.cached_property
    def reference(self) -> dict[str, Any]:
        """What the teacher's own file does on the validation data, if it can be exported."""
        file = self.folder / "teacher" / "record.json"
        found: dict[str, Any] = self.kept(file, self._measure_teacher)
        return found

    def _measure_teacher(self) -> dict[str, Any]:
        for name, way in itertools.product(_OF_TEACHER, self.space.teachings.values()):
            if way.get(name) is not None:
                error = f"`{name}` of the `teachings` makes it another function than its file."
                return {"measured": None, "error": error}
        file = self.folder / "teacher" / "teacher.tflite"
        try:
            self._export(self.teacher, file, "float32")
            return {"measured": self.measure(file, self.validation_data, self.teacher).to_dict()}
        except (ValueError, TypeError, RuntimeError) as error:
            return {"measured": None, "error": str(error)}

    @staticmethod
    def kept(file: pathlib.Path, make: Callable[[], Any]) -> Any:
        """Return what a JSON file holds; make and write it where there is none, or an error."""
        if not file.exists() or read_json(file).get("error") is not None:
            write_json(file, plain(make()))
        return read_json(file)

    def measure(self, file: pathlib.Path, data: Any, model: Any = None) -> Any:
        """Return what a file does on data."""
        device = None if model is self.teacher else self.options["device"]
        return evaluate_tflite(
            file, data, model, device=device, verbose=False, **self.options["measuring"]
        )

    def _export(self, model: Any, file: pathlib.Path, quantization: str, **options: Any) -> None:
        given = {"on_disagreement": "ignore", "verbose": False, **options}
        export_tflite(model, file, quantization, self.batches, **given)

    def untrained(self, candidate: Candidate) -> dict[str, Any]:
        """Return size and latency of a candidate's file before any training."""

        def make() -> dict[str, Any]:
            keras.utils.set_random_seed(seed_of(self.options["seed"], candidate.file))
            stages = [stage.changed(epochs=0) for stage in self.space.stages[candidate.stages]]
            student = self.space.students[candidate.student]()
            with tempfile.TemporaryDirectory() as temporary:
                file = pathlib.Path(temporary) / "student.tflite"
                try:
                    # "balanced" measures its weights in a training, and there was none.
                    way = {"distillation_loss_weights": None}
                    distiller = self.distiller(student, candidate.teaching, **way)
                    self.write(candidate, distiller, stages, file)
                    return {**_sizes(file), "latency_ms": self._latency(file)}
                except _FAILURES as error:
                    return {"error": str(error)}

        timed = self.options["device"] or platform.node()
        parts = (candidate.file, "sizes" if self.options["max_latency_ms"] is None else timed)
        name = f"{folder_name(*parts)}.json"
        found: dict[str, Any] = self.kept(self.folder / "untrained" / name, make)
        return found

    def _latency(self, file: pathlib.Path) -> float | None:
        if self.options["max_latency_ms"] is None:
            return None
        device = self.options["device"]
        if device is None:
            given = self.options["measuring"]
            timing = {name: given[name] for name in _TIMING if name in given}
            return benchmark_tflite(file, **timing).latency_ms
        return _latency_on(device_cost(file, device))

    def write(
        self,
        candidate: Candidate,
        distiller: Distiller,
        stages: list[Any],
        file: pathlib.Path,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> Any:
        """Run the stages, write the file, and return the model that it was made from."""
        model: Any = distiller.student
        if stages:
            model = compress(distiller, self.train, stages=stages, callbacks=callbacks, verbose=0)
        self._export(model, file, candidate.quantization, **self.options["exporting"])
        return model

    def _taught(
        self,
        candidate: Candidate,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> Distiller:
        """Return the distiller after `epochs` epochs; the first trial that needs it trains it.

        Stages continue with its projections, its step and its measured weights.
        """
        seed = seed_of(self.options["seed"], candidate.student, candidate.teaching)
        what = (candidate.student, candidate.teaching, *([epochs] if self._apart else []))
        folder = self.folder / "trainings" / folder_name(*what)
        make = self.space.students[candidate.student]

        def begin(epochs: int) -> Distiller:
            keras.utils.set_random_seed(seed)  # from which a copy draws the seeds of Dropout
            student = make()
            keras.utils.set_random_seed(seed)
            return self.distiller(student, candidate.teaching, epochs)

        with held_folder(folder, wait_for=""):
            backup = BackupAndRestore(folder / "backup", delete_checkpoint=False)
            for rung in [epochs] if self._apart else rungs(self.options["epochs"]):
                if rung > epochs or _is_kept(folder, epochs) or _is_kept(folder, rung):
                    continue
                distiller = begin(rung)
                batches = self.train
                if isinstance(batches, PassOrder):
                    batches = batches.make(seed, backup.epochs_done())
                watching = [backup, *callbacks]
                distiller.fit(batches, epochs=rung, shuffle=False, callbacks=watching, verbose=0)
                with atomic_path(_kept_in(folder, rung)) as temporary:
                    weights = temporary.with_suffix(".weights.h5")  # which Keras insists on
                    distiller.save_weights(weights)
                    os.replace(weights, temporary)
        distiller = begin(epochs)
        if (file := _kept_in(folder, epochs)).exists():
            with distiller.distribute_strategy.scope():
                distiller.check_data(first_batch(self._examples))  # which builds projections
                distiller.optimizer.build(distiller.trainable_variables)
            distiller.load_weights(file)
        else:
            arrays = read_arrays(_of_student_alone(folder, epochs))
            distiller.student.set_weights([arrays[name] for name in sorted(arrays)])
        return distiller

    def run(self, candidate: Candidate, epochs: int, number: int) -> dict[str, Any]:
        """Return the record of a trial, which is run unless it is there.

        Args:
            candidate: The candidate.
            epochs: How many epochs it is taught; the stages' epochs are shortened in proportion.
            number: Number of the trial, from 1.
        """
        folder = self.trial_folder(candidate, epochs)
        with held_folder(folder, wait_for=""):
            if (folder / "record.json").exists():
                record: dict[str, Any] = read_json(folder / "record.json")
                return record
            watch = _Stopwatch(folder / "seconds.json")
            try:
                found = self._run(candidate, epochs, folder, watch)
            except _FAILURES as error:
                found = {"error": str(error), "score": None, "bytes": None, "latency_ms": None}
            finally:
                seconds = watch.keep()
            record = {
                "format": FORMAT,
                "candidate": vars(candidate),
                "epochs": epochs,
                "seconds": seconds,
                **found,
            }
            write_json(folder / "record.json", plain(record))
            (folder / "seconds.json").unlink(missing_ok=True)
        gc.collect()
        if self.options["verbose"]:
            print(self._line(candidate, number, record), flush=True)
        return record

    def trial_folder(self, candidate: Candidate, epochs: int) -> pathlib.Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / folder_name(candidate, epochs)

    def _run(
        self, candidate: Candidate, epochs: int, folder: pathlib.Path, watch: _Stopwatch
    ) -> dict[str, Any]:
        distiller = self._taught(candidate, epochs, [watch])
        seed = seed_of(self.options["seed"], str(candidate), epochs)
        keras.utils.set_random_seed(seed)
        share = epochs / self.options["epochs"]
        stages = [
            stage.with_epochs(max(1, round(share * stage.epochs))) if stage.epochs else stage
            for stage in self.space.stages[candidate.stages]
        ]
        file = folder / "student.tflite"
        model = self.write(candidate, distiller, stages, file, [watch])
        watch.keep()
        with atomic_path(folder / "student.keras") as temporary:
            model.save(temporary)
        write_json(folder / "recipe.json", plain(self._recipe(candidate, epochs, stages)))
        result = self.measure(file, self.validation_data)
        on_device = self.options["device"] is not None
        latency = _latency_on(result.device_cost) if on_device else result.latency_ms
        return {
            "error": None,
            "score": self.score(result.to_dict()),
            **_sizes(file),
            "latency_ms": latency,
            "measured": {**result.to_dict(), "path": os.fspath(file.relative_to(self.folder))},
        }

    def _recipe(self, candidate: Candidate, epochs: int, stages: list[Any]) -> dict[str, Any]:
        keys = ("seed", "epochs", "loss", "cache_teacher", "views", "widths", "depths")
        return dict(
            as_json(
                {
                    "format": FORMAT,
                    "keras_kd": __version__,
                    "candidate": vars(candidate),
                    "epochs": epochs,
                    "search": {key: self.options[key] for key in keys},
                    "optimizer": keras.optimizers.serialize(self.optimizer(epochs)),
                    "teaching": self.space.teachings[candidate.teaching],
                    "stages": configs_of_stages(stages),
                    "quantization": candidate.quantization,
                    "plan": self.options["plan"],
                }
            )
        )

    def score(self, measured: Mapping[str, Any], data: str = "validation") -> float:
        """Return the figure of merit, larger for a better file.

        Args:
            measured: What was measured of the file.
            data: On which data, for error messages. Defaults to `"validation"`.

        Raises:
            ValueError: If it was not measured, or is not finite.
        """
        metric = self.options["metric"]
        values = dict(measured["metrics"])
        if measured["accuracy"] is not None:
            values["accuracy"] = measured["accuracy"]
        if metric not in values:
            raise ValueError(
                f"The {data} data gives no `{metric}`. Received: metric={metric!r}. Pass data "
                "with labels; for a task without right and wrong answers pass a metric of its own, "
                'such as metric="mae", mode="min", measuring={"metrics": ["mae"]}.'
            )
        value = math.nan if values[metric] is None else float(values[metric])  # JSON has no NaN
        if not math.isfinite(value):
            raise ValueError(
                f"The `{metric}` of the file on the {data} data is not a finite number. "
                f"Received: {metric}={value}."
            )
        return value if self.options["mode"] == "max" else -value

    def _line(self, candidate: Candidate, number: int, record: Mapping[str, Any]) -> str:
        text = f"Trial {number}: {candidate}, {shown_epochs(record['epochs'])}: "
        if record["error"] is not None:
            return f"{text}failed: {record['error']}"
        metric = record["score"] if self.options["mode"] == "max" else -record["score"]
        text += (
            f"{self.options['metric']} {metric:.4f}, {record['bytes']:,} bytes, "
            f"{shown_latency(record['latency_ms'])} ms; took {record['seconds']:.0f} s"
        )
        seconds = [read_json(file)["seconds"] for file in self.folder.glob("trials/*/record.json")]
        spent, trials, budget = sum(seconds), self.options["trials"], self.options["budget"]
        left = [] if budget is None else [budget - spent]
        if trials is not None:
            left.append((trials - number) * spent / len(seconds))
        workers = len(list(self.folder.glob("workers/*"))) or 1
        now = time.time()
        end = time.localtime(now + max(0.0, min(left)) / workers)
        today = time.strftime("%x", end) == time.strftime("%x", time.localtime(now))
        shown = time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", end)
        return f"{text}, ends about {shown}"


def decaying_adam(steps: int, rate: float = 1e-3) -> keras.optimizers.Optimizer:
    """Return Adam whose learning rate decays to zero.

    Args:
        steps: Steps of the training.
        rate: The learning rate at the start. Defaults to `1e-3`.
    """
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


class _Stopwatch(keras.callbacks.Callback):
    """Counts the seconds of a trial, in a file from which a killed one counts on.

    Args:
        file: The file.
    """

    def __init__(self, file: pathlib.Path) -> None:
        super().__init__()
        self._file = file
        self._start = time.perf_counter() - (read_json(file) if file.exists() else 0.0)

    def keep(self) -> float:
        """Write down the seconds up to now, and return them."""
        seconds = time.perf_counter() - self._start
        write_json(self._file, seconds)
        return seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write down the seconds up to now."""
        self.keep()


def _kept_in(folder: pathlib.Path, epochs: int) -> pathlib.Path:
    """Return the file of what was trained for so many epochs."""
    return folder / f"{epochs:05d}.weights.h5"


def _of_student_alone(folder: pathlib.Path, epochs: int) -> pathlib.Path:
    """Return the file in which earlier versions kept a student, without its distiller."""
    return folder / f"{epochs:05d}.npz"


def _is_kept(folder: pathlib.Path, epochs: int) -> bool:
    return any(file(folder, epochs).exists() for file in (_kept_in, _of_student_alone))


def _latency_on(cost: DeviceCost) -> float | None:
    """Return the estimate, or `None` for a file of which nothing runs on the accelerator."""
    return cost.latency_ms if cost.npu_operators else None


def shown_epochs(epochs: int) -> str:
    """Return a number of epochs as text."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def shown_latency(latency: float | None) -> str:
    """Return a latency as text."""
    return "–" if latency is None else f"{latency:.3g}"


def rungs(epochs: int) -> list[int]:
    """Return the numbers of epochs after which a student is kept, as successive halving asks."""
    found: list[int] = []
    while epochs >= FACTOR ** len(found):
        found.append(math.ceil(epochs / FACTOR ** len(found)))
    return found[::-1]


def _sizes_of(batches: Any) -> list[int]:
    """Return the numbers of examples of batches."""
    return [samples_in(inputs_of(batch)) for batch in batches]


def _without_teacher(taught: TaughtInputs, *others: Any) -> Any:
    return (student_inputs(taught), *others)


def _sizes(file: pathlib.Path) -> dict[str, int]:
    return {"bytes": file_size(file), "zipped_bytes": zipped_size(file)}
