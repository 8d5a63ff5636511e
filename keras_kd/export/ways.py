"""Which way to calibrate gives the truest file: ranges, equalized channels, corrected biases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

from keras_kd.export.calibration import stacked
from keras_kd.export.conversion import Conversion, Converted
from keras_kd.export.fidelity import Expected, Fidelity
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.remedies import measure_file
from keras_kd.export.saved_model import SavedModelSource
from keras_kd.export.tracing import as_float32
from keras_kd.quantizing.post_training import PostTraining
from keras_kd.system.json_values import plain
from keras_kd.system.quiet import capture_output

AUTO = "auto"
_RANGES = ("minmax", "percentile", "mse")
_CHANGES = ("equalization", "bias_correction")
# A file of so many equal answers and so small an error is not improved on: what is left is the
# rounding itself.
_GOOD = ((0.99, 0.1), (0.95, 0.05))
# A way must be better by this factor in its error to replace a simpler one.
_BETTER = 0.9


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to calibrate.

    Attributes:
        ranges: `"minmax"` are the converter's own, from the smallest to the largest value;
            `"percentile"` and `"mse"` those of the engine behind `keras_kd.QuantizeAware`.
        equalize: Whether channels of neighbouring layers are equalized.
        correct: Whether biases make up for the rounding of kernels.
    """

    ranges: str = "minmax"
    equalize: bool = False
    correct: bool = False

    @property
    def name(self) -> str:
        """What `calibration=` calls it, such as `"mse+equalization"`."""
        changes = zip((self.equalize, self.correct), _CHANGES, strict=True)
        return "+".join([self.ranges, *(name for asked, name in changes if asked)])

    def with_(self, **changes: Any) -> Way:
        """Return another way."""
        return dataclasses.replace(self, **changes)


def way_of(calibration: str, quantization: str) -> Way | None:
    """Return the way that `calibration` names, `None` for `"auto"`.

    Args:
        calibration: What `export_tflite` was given.
        quantization: The format.

    Raises:
        ValueError: If there is no such way, or not in this format.
    """
    if calibration == AUTO:
        return None
    parts = calibration.split("+") if isinstance(calibration, str) else [""]
    way = Way(
        next((part for part in parts if part in _RANGES), "minmax"), *(c in parts for c in _CHANGES)
    )
    if set(parts) - {way.ranges, *_CHANGES} or len(set(parts)) < len(parts):
        raise ValueError(
            "`calibration` must be 'auto', or one of 'minmax', 'percentile' and 'mse', with "
            "'equalization' and 'bias_correction' added by '+', such as 'mse+equalization'. "
            f"Received: calibration={calibration!r}."
        )
    formats = ("int8",) if way.ranges != "minmax" else ("int8", "int16x8")
    if way != Way() and quantization not in formats:
        raise ValueError(
            f"`calibration={calibration!r}` is for quantization={' or '.join(map(repr, formats))}. "
            f"Received: quantization={quantization!r}. Leave `calibration` out."
        )
    return way


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The way that was chosen, and those that were tried.

    Attributes:
        converted: The file.
        name: The way.
        tried: For JSON, a dict for each way with its `name` and, where they were compared,
            `agreement` and `signal_to_noise_db`, or the `error` with which it failed.
    """

    converted: Converted
    name: str
    tried: list[dict[str, Any]]


def convert(
    job: Conversion, source: KerasSource | SavedModelSource, way: Way | None, quantization: str
) -> tuple[Converted, dict[str, Any] | None]:
    """Convert a model, calibrated where it needs to be.

    Args:
        job: The conversion with its data.
        source: The model.
        way: The way to calibrate, or `None` to choose one.
        quantization: The format.

    Returns:
        The file, and for JSON the way in which it was calibrated; `None` if it was not.
    """
    if not isinstance(source, KerasSource) or source.quantization_aware:
        if way is not None and way != Way():
            raise ValueError(
                f"`calibration` needs a Keras 3 model that holds no trained ranges. Received: "
                f"calibration={way.name!r}. Leave it out."
            )
        converted = job.run()
        ranges = "trained" if source.quantization_aware else Way().name
        return converted, None if job.calibration is None else {"ranges": ranges, "tried": []}
    if job.calibration is None:
        return job.run(), None
    chosen = _convert_calibrated(job, source, way, quantization)
    return chosen.converted, {"ranges": chosen.name, "tried": chosen.tried}


def _convert_calibrated(
    job: Conversion, source: KerasSource, way: Way | None, quantization: str
) -> Chosen:
    """Convert a model in one way, or in several of which the truest is kept.

    The converter's own ranges come first. The others are tried only where the file is not true.

    Args:
        job: The conversion, which has calibration data.
        source: Its model.
        way: The way, or `None` to choose one.
        quantization: The format.
    """
    search = _Search(job, source)
    if job.mixes_precisions:  # whose layers are taken from files with the converter's own ranges
        if way is not None and way != Way():
            raise ValueError(
                "Layers in another precision are joined to a file with the converter's own ranges. "
                f"Received: calibration={way.name!r} and exclude=. Leave `calibration` out."
            )
        way = Way()
    if way is not None:
        return Chosen(search.convert(way), way.name, [{"name": way.name}])
    first = job.run()
    if any(operator.is_flex for operator in first.file.operators()):  # LiteRT does not run it
        return Chosen(first, Way().name, [])
    search.try_(Way(), first)
    shared = bool(source.clustered_kernels())
    for candidate in _candidates(search, quantization, shared):
        if search.is_good:
            break
        search.try_(candidate)
    best = search.best
    return Chosen(search.files.get(best, first), best.name, search.tried)


def _candidates(search: _Search, quantization: str, shared: bool) -> Iterator[Way]:
    """Yield ways, each made from the best so far; shared values of kernels stay shared."""
    if quantization == "int8":
        yield Way("percentile")
        yield Way("mse")
    if not shared:
        yield search.best.with_(equalize=True)
        if quantization == "int8" and search.best.ranges == "minmax":
            yield Way("percentile", equalize=True)
        yield search.best.with_(correct=True)


class _Search:
    """Converts and measures.

    Args:
        job: The conversion with the converter's own ranges.
        source: Its model.

    Attributes:
        best: The truest way so far.
        files: What was converted, by its way.
        tried: For JSON; see `Chosen`.
    """

    def __init__(self, job: Conversion, source: KerasSource) -> None:
        self._job, self._source = job, source
        self._engine: PostTraining | None = None
        self._expected = Expected(source, job.choosing)
        self._sizes: dict[str, int | None] | None = None
        self._best: Fidelity | None = None
        self.best = Way()
        self.files: dict[Way, Converted] = {}
        self.tried: list[dict[str, Any]] = []

    def convert(self, way: Way) -> Converted:
        """Return the file of a way."""
        if way == Way():
            return self._job.run()
        with as_float32(self._source.model), capture_output(False):
            if self._engine is None:
                self._engine = PostTraining(self._source.model, list(self._batches()))
            ranges = None if way.ranges == "minmax" else way.ranges
            made = self._engine.quantization(ranges, way.equalize, way.correct)
        job = self._job.again(self._source.seen_through(made.applied), self._sizes)
        if made.left_in_float:  # the converter would find the ranges that hide all else
            job.calibration = None
        return job.run()

    def _batches(self) -> Iterable[Any]:
        for inputs in stacked(self._job.calibration, self._source.inputs):
            yield self._source.structure(inputs)

    def try_(self, way: Way, converted: Converted | None = None) -> None:
        """Measure a way; one that fails is noted."""
        try:
            converted = converted or self.convert(way)
            found = measure_file(converted.file, self._expected)
        except Exception as error:  # one way that fails is no reason to write no file
            self.tried.append({"name": way.name, "error": f"{type(error).__name__}: {error}"})
            return
        self._sizes = converted.batch_sizes
        self.files[way] = converted
        if self._best is None or _is_better(found, self._best):
            self.best, self._best = way, found
        kept = found.agreement, found.signal_to_noise_db
        names = ("agreement", "signal_to_noise_db")
        self.tried.append(plain({"name": way.name, **dict(zip(names, kept, strict=True))}))

    @property
    def is_good(self) -> bool:
        """Whether the best way needs no improvement."""
        found = self._best
        if found is None:
            return False
        agreement, error = _agreement(found), found.worst.relative_error
        return any(
            agreement + _noise(least, found.samples) >= least and error <= most
            for least, most in _GOOD
        )


def _agreement(found: Fidelity) -> float:
    return 1.0 if found.agreement is None else found.agreement


def _noise(agreement: float, samples: int) -> float:
    """Return the standard deviation of an agreement that is measured on some samples."""
    return math.sqrt(agreement * (1.0 - agreement) / samples)


def _is_better(new: Fidelity, old: Fidelity) -> bool:
    """Whether a way has more equal answers than chance explains, or as many and less error."""
    gain = _agreement(new) - _agreement(old)
    noise = max(_noise(_agreement(old), old.samples), 1.0 / old.samples)
    less = new.worst.relative_error < _BETTER * old.worst.relative_error
    return gain > noise or (gain >= -noise and less)
