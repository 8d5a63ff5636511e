"""compress_to_size: the gentlest compression whose file is small enough."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_kd.compression.compress import as_distiller, compress
from keras_kd.compression.running.compressed_model import CompressedModel
from keras_kd.compression.running.run_folder import differences
from keras_kd.compression.running.run_plan import run_plan
from keras_kd.compression.running.stage_callbacks import stage_callbacks
from keras_kd.compression.stages.order import check_stages
from keras_kd.compression.stages.stage import Stage
from keras_kd.data.batches import PassOrder, as_batches
from keras_kd.data.numpy_batches import check_repeats
from keras_kd.distilling.distiller import Distiller
from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.sizes import file_size, zipped_size
from keras_kd.system.arguments import number
from keras_kd.system.files import check_writable, write_json
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.names import suggests_arguments
from keras_kd.system.reading import read_json

# Training changes the size of the zipped file by some per cent.
_MARGIN = 0.98
_STEPS = 6
_NOTHING_IS_DONE = 2**62


@dataclasses.dataclass(frozen=True)
class SizedStudent:
    """The result of `compress_to_size`.

    Attributes:
        model: The compressed student.
        bytes: Size of its file, zipped or not, as requested.
        strength: The strength of the stages, from 0 to 1.
        file: The file, where a `path` was given, else `None`.
        tried: The size by strength of the students that were trained.
    """

    model: CompressedModel
    bytes: int
    strength: float
    file: pathlib.Path | None
    tried: dict[float, int]


@suggests_arguments
def compress_to_size(
    distiller: Distiller | keras.Model,
    train: Any,
    validation_data: Any = None,
    *,
    stages: Stage | Sequence[Stage],
    max_bytes: int,
    quantization: str = "int8",
    zipped: bool = True,
    representative_data: Any = None,
    path: str | os.PathLike[str] | None = None,
    trainings: int = 3,
    callbacks: Any = None,
    verbose: Any = "auto",
) -> SizedStudent:
    """Compress a student no more than a limit on the size of its file requires.

    Pass the stages at full strength. Bisection finds one common strength from 0 to 1, with stages
    that do not train, since training hardly changes the size. The stages then run in full at that
    strength, and the file is measured. If it is too large, the next strength allows for that.

    Args:
        distiller: As in `compress`.
        train: As in `compress`.
        validation_data: As in `compress`. Defaults to `None`.
        stages: The stages, as strong as they may become: `[Prune(0.95, epochs=4),
            QuantizeAware(epochs=2)]` searches the sparsity between 0 and 0.95.
        max_bytes: Largest size of the file in bytes.
        quantization: As in `export_tflite`. Defaults to `"int8"`.
        zipped: Whether the size is that of the zipped file, in which zeros and shared values
            count. Defaults to `True`.
        representative_data: As in `export_tflite`. Defaults to `None`: `train`.
        path: The folder of the search: a run of `compress` for every strength that is trained,
            `student.tflite`, and `size.json` with the sizes. The same call resumes a killed
            run. Defaults to `None`: nothing is kept.
        trainings: How many strengths may be trained. Defaults to `3`.
        callbacks: As in `compress`, for the trainings of a strength. Defaults to `None`.
        verbose: As in `compress`. Defaults to `"auto"`.

    Returns:
        A `SizedStudent`.

    Raises:
        ValueError: If the file is too large even at full strength or after the last training, or
            an argument is one that `compress` or `export_tflite` refuses.

    Example:

    ```python
    sized = keras_kd.compress_to_size(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Prune(0.95, epochs=4), keras_kd.QuantizeAware(epochs=2)],
        max_bytes=20_000,
        path="runs/20kB",
    )
    print(sized.strength, sized.bytes, sized.file)
    ```
    """
    distiller = as_distiller(distiller)
    number("max_bytes", max_bytes, least=1, whole=True)
    number("trainings", trainings, least=1, whole=True)
    check_repeats(representative_data, "representative_data")
    stages = check_stages(stages)
    stage_callbacks(callbacks, stages)
    folder = None if path is None else pathlib.Path(path)
    what = f"{'zipped ' if zipped else ''}{quantization} file"

    samples = train if representative_data is None else representative_data
    if isinstance(samples, PassOrder):
        samples = samples.make(0, 0)

    def run(strength: float, trained: bool) -> tuple[CompressedModel | None, int]:
        chosen = _stages_at(strength, stages, distiller.student)
        if not chosen:
            return None, _NOTHING_IS_DONE
        if not trained:
            chosen = [stage.changed(epochs=0) for stage in chosen]
        kept = folder if trained else None
        compressed = compress(
            distiller,
            train,
            validation_data if trained else None,
            stages=chosen,
            path=None if kept is None else kept / f"strength_{strength:.4f}",
            callbacks=callbacks if trained else None,
            verbose=verbose if trained else 0,
        )
        with tempfile.TemporaryDirectory() as temporary:
            file = (kept or pathlib.Path(temporary)) / "student.tflite"
            export_tflite(
                compressed,
                file,
                quantization,
                representative_data=samples,
                on_disagreement="warn" if trained else "ignore",
                calibration="auto" if trained else "minmax",
                verbose=False,
            )
            return compressed, zipped_size(file) if zipped else file_size(file)

    settings = {
        "quantization": quantization,
        "zipped": zipped,
        "plan": None if folder is None else _plan(distiller, stages, train, validation_data),
    }
    with contextlib.nullcontext() if folder is None else held_folder(folder):
        sizes = _Sizes(folder, settings, lambda strength: run(strength, trained=False)[1])
        if sizes.untrained(1.0) > max_bytes:
            raise ValueError(
                f"At full strength the {what} has about {sizes.untrained(1.0):,} bytes, and "
                f"`max_bytes` is {max_bytes:,}. Give stronger stages, such as a higher sparsity, "
                "more stages, or a smaller student."
            )
        growth = 1.0
        found, size = None, 0
        for training in range(trainings):
            strength = sizes.weakest(max_bytes * (_MARGIN if training == 0 else 0.995) / growth)
            if verbose:
                print(
                    f"Strength {strength:.3f}: the {what} has about {sizes.untrained(strength):,} "
                    "bytes before training"
                )
            found, size = run(strength, trained=True)
            sizes.keep_trained(strength, size)
            if verbose:
                print(f"Strength {strength:.3f}: {size:,} bytes after training, of {max_bytes:,}")
            if found is not None and size <= max_bytes:
                file = None if folder is None else folder / "student.tflite"
                return SizedStudent(found, size, strength, file, sizes.trained)
            growth = max(growth, size / sizes.untrained(strength)) * 1.005
        raise ValueError(
            f"After {trainings} trainings the {what} has {size:,} bytes, and `max_bytes` is "
            f"{max_bytes:,}. Give stronger stages, or a larger number of `trainings`."
        )


def _plan(
    distiller: Distiller, stages: Sequence[Stage], train: Any, validation_data: Any
) -> dict[str, Any]:
    held_out = None if validation_data is None else as_batches(validation_data, "validation_data")
    arrays = train if isinstance(train, (tuple, list)) else None
    return run_plan(distiller, stages, as_batches(train, "train"), held_out, arrays)


def _stages_at(strength: float, stages: Sequence[Stage], student: Any) -> list[Stage]:
    """Return the stages of a strength, without those that have nothing to do at it.

    With 256 clusters no small kernel is clustered, and a small part of three blocks is no block.
    """
    if strength == 1.0 or not student.built:
        return [stage.at_strength(strength) for stage in stages]
    chosen: list[Stage] = []
    for stage in stages:
        weaker = stage.at_strength(strength)
        plan = weaker.plan(student, chosen)
        if not plan.refused:
            chosen.append(weaker)
            student = plan.preview()
    return chosen


def _same_search(kept: Any, settings: dict[str, Any]) -> bool:
    plans = [dict(kept).get("plan"), settings["plan"]]
    others = [{key: value for key, value in s.items() if key != "plan"} for s in (kept, settings)]
    return others[0] == others[1] and plans[0] is not None and not differences(*plans)


class _Sizes:
    """Sizes by strength, measured once and kept in the folder."""

    def __init__(
        self, folder: pathlib.Path | None, settings: dict[str, Any], measure: Callable[[float], int]
    ) -> None:
        self._file = None if folder is None else check_writable(folder / "size.json")
        self._measure = measure
        self._content: dict[str, Any] = {"settings": settings, "untrained": {}, "trained": {}}
        if self._file is not None and self._file.exists():
            try:
                content = read_json(self._file)
                known = [content[key] for key in self._content]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"'{self._file}' is not a record of a search for a size. Give a new folder as "
                    "`path`."
                ) from error
            if not _same_search(known[0], settings):
                raise ValueError(
                    f"'{self._file}' is of another student, other stages, other data or another "
                    "kind of file. Give a new folder as `path`, or remove that one."
                )
            self._content = content
        elif folder is not None and (folder / "student.tflite").exists():
            raise ValueError(
                f"'{folder}' holds 'student.tflite' but no size.json: this run would overwrite "
                "it. Give a new folder as `path`, or remove that file."
            )

    def _write(self) -> None:
        if self._file is not None:
            write_json(self._file, self._content)

    @property
    def trained(self) -> dict[float, int]:
        return {float(strength): size for strength, size in self._content["trained"].items()}

    def keep_trained(self, strength: float, size: int) -> None:
        self._content["trained"][str(strength)] = size
        self._write()

    def untrained(self, strength: float) -> int:
        known = self._content["untrained"]
        if str(strength) not in known:
            known[str(strength)] = self._measure(strength)
            self._write()
        return int(known[str(strength)])

    def weakest(self, limit: float) -> float:
        """Return the smallest strength, to a part in `2 ** _STEPS`, that keeps to the limit."""
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if self.untrained(middle) <= limit:
                high = middle
            else:
                low = middle
        return high
