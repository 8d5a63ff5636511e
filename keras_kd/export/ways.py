"""Chooses how to calibrate, by the file closest to its model: ranges, equalization, biases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras_kd.export.calibration import not_measured, stacked
from keras_kd.export.conversion import Conversion, Converted
from keras_kd.export.fidelity import Expected, Fidelity
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.one_scale import merge_scales
from keras_kd.export.options import INTEGER
from keras_kd.export.remedies import measure_file
from keras_kd.export.saved_model import SavedModelSource
from keras_kd.export.tracing import as_float32
from keras_kd.litert.model_file import ModelFile
from keras_kd.models.views import read_as
from keras_kd.quantizing.post_training import PostTraining
from keras_kd.system.json_values import plain
from keras_kd.system.quiet import capture_output

AUTO = "auto"
_RANGES = ("minmax", "percentile", "mse")
_CHANGES = ("equalization", "bias_correction")
# Formats of which nothing but weights is rounded before they run.
_OF_WEIGHTS = ("dynamic", "int4", "weight_only")
# A file of so many equal answers and so small an error is not improved on: what is left is the
# rounding itself.
_GOOD = ((0.99, 0.1), (0.95, 0.05))
# A way must be better by this factor in its error, or by so many standard deviations in its equal
# answers, to replace a simpler one: where weights alone are rounded, by more than samples may show
# by chance.
_BETTER, _BETTER_OF_WEIGHTS = (0.9, 1.0), (0.7, 2.0)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to calibrate.

    Attributes:
        ranges: `"minmax"` are the converter's own, from the smallest to the largest value;
            `"percentile"` and `"mse"` those of the engine behind `keras_kd.QuantizeAware`. `None`
            for a format that needs none.
        equalize: Whether channels of neighboring layers are equalized.
        correct: Whether biases make up for the rounding of kernels.
    """

    ranges: str | None = "minmax"
    equalize: bool = False
    correct: bool = False

    @property
    def name(self) -> str:
        """What `calibration=` calls it, such as `"mse+equalization"`."""
        changes = zip((self.equalize, self.correct), _CHANGES, strict=True)
        return "+".join(filter(None, [self.ranges, *(name for asked, name in changes if asked)]))

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
    formats: tuple[str, ...] = ("int8",) if way.ranges != "minmax" else INTEGER
    if way == Way(equalize=True):
        formats = (*INTEGER, *_OF_WEIGHTS)
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
    job: Conversion,
    source: KerasSource | SavedModelSource,
    way: Way | None,
    quantization: str,
    beside: Sequence[str] = (),
) -> tuple[Converted, dict[str, Any] | None]:
    """Convert a model, calibrated where it needs to be.

    Args:
        job: The conversion with its data.
        source: The model.
        way: The way to calibrate, or `None` to choose one.
        quantization: The format.
        beside: Other forms to convert the model to in the same way. Defaults to none.

    Returns:
        The file, and for JSON the way in which it was calibrated; `None` if it was not.
    """
    plain = Way("minmax" if quantization in INTEGER else None)
    if not isinstance(source, KerasSource) or source.quantization_aware:
        if way is not None and way != Way():
            raise ValueError(
                f"`calibration` needs a Keras 3 model that holds no trained ranges. Received: "
                f"calibration={way.name!r}. Leave it out."
            )
        job.beside = beside
        converted = job.run()
        ranges = "trained" if source.quantization_aware else Way().name
        return converted, None if job.calibration is None else {"ranges": ranges, "tried": []}
    if way is not None and plain.ranges is None:
        way = way.with_(ranges=None)
    if quantization not in (*INTEGER, *_OF_WEIGHTS):
        way = plain
    chosen = _converted(job, source, way, quantization, plain, beside)
    if not chosen.name:  # no ranges, and no way that is better than none
        return chosen.converted, None
    return chosen.converted, {"ranges": chosen.name, "tried": chosen.tried}


def _converted(
    job: Conversion,
    source: KerasSource,
    way: Way | None,
    quantization: str,
    plain: Way,
    beside: Sequence[str],
) -> Chosen:
    """Convert a model in one way, or in several of which the one closest to the model is kept.

    The converter's own way comes first. The others are tried only if that file differs too much.

    Args:
        job: The conversion.
        source: Its model.
        way: The way, or `None` to choose one.
        quantization: The format.
        plain: The converter's own way.
        beside: Other forms to convert the model to.
    """
    search = _Search(job, source, plain)
    if way is None and not len(job.choosing):
        way = plain
    if way is not None:
        job.beside = beside
        return Chosen(search.convert(way), way.name, [{"name": way.name}])
    first = search.convert(plain)
    flex = any(operator.is_flex for operator in first.file.operators())  # LiteRT does not run it
    if flex:
        return Chosen(first, plain.name, [])
    search.try_(plain, first)
    shared = bool(source.clustered_kernels())
    for candidate in _candidates(search, quantization, shared):
        if search.is_good:
            break
        search.try_(candidate)
    converted = search.files.get(search.best, first)
    if beside:
        job.beside = beside
        converted = search.convert(search.best)
    return Chosen(converted, search.best.name, search.tried)


def _candidates(search: _Search, quantization: str, shared: bool) -> Iterator[Way]:
    """Yield ways, each made from the best so far; shared values of kernels stay shared."""
    if quantization == "int8":
        yield Way("percentile")
        yield Way("mse")
    if not shared:
        yield search.best.with_(equalize=True)
        if quantization == "int8" and search.best.ranges == "minmax":
            yield Way("percentile", equalize=True)
        if quantization in INTEGER:
            yield search.best.with_(correct=True)


class _Search:
    """Converts and measures.

    Args:
        job: The conversion.
        source: Its model.
        plain: The converter's own way.

    Attributes:
        best: The way that gave the closest file so far.
        files: What was converted, by its way.
        tried: For JSON; see `Chosen`.
    """

    def __init__(self, job: Conversion, source: KerasSource, plain: Way) -> None:
        self._job, self._source, self._plain = job, source, plain
        self._engine: PostTraining | None = None
        self._expected = Expected(source, job.choosing)
        self._sizes: dict[str, int | None] | None = None
        self._best: Fidelity | None = None
        self.best = plain
        self.files: dict[Way, Converted] = {}
        self.tried: list[dict[str, Any]] = []

    def convert(self, way: Way) -> Converted:
        """Return the file of a way."""
        if way == self._plain:
            return self._job.run()
        with as_float32(self._source.model), capture_output(False):
            if self._engine is None:
                self._engine = PostTraining(
                    self._source.model, list(self._batches()), given=self._source.given_layers
                )
            ranges = None if way.ranges == "minmax" else way.ranges
            made = self._engine.quantization(ranges, way.equalize, way.correct)
            plain = self._engine.in_float(ranges, way.equalize)
        source = self._source.seen_through(made.applied, plain.applied)
        job = self._job.again(source, self._sizes)
        if made.left_in_float:  # the converter would find the ranges that hide all else
            job.calibration = None
        return dataclasses.replace(job.run(), weights=tuple(made.weights))

    def _batches(self) -> Iterable[Any]:
        for inputs in stacked(self._job.calibration, self._source.inputs):
            yield self._source.structure(inputs)

    def try_(self, way: Way, converted: Converted | None = None) -> None:
        """Measure a way; one that fails is noted."""
        name = way.name or "none"
        try:
            converted = converted or self.convert(way)
            first = self.files.get(self._plain, converted)
            for path in set(converted.not_excluded) - set(first.not_excluded):
                raise ValueError(converted.not_excluded[path])
            if self._plain.ranges is None and _size(converted) > _size(first):
                raise ValueError("The file is larger.")
            found = measure_file(converted.file, self._expected)
        except Exception as error:  # one way that fails is no reason to write no file
            self.tried.append({"name": name, "error": f"{type(error).__name__}: {error}"})
            return
        self._sizes = converted.batch_sizes
        self.files[way] = converted
        least = _BETTER_OF_WEIGHTS if self._plain.ranges is None else _BETTER
        if self._best is None or _is_better(found, self._best, *least):
            self.best, self._best = way, found
        kept = found.agreement, found.signal_to_noise_db
        names = ("agreement", "signal_to_noise_db")
        self.tried.append(plain({"name": name, **dict(zip(names, kept, strict=True))}))

    @property
    def is_good(self) -> bool:
        """Whether the best way needs no improvement."""
        found = self._best
        if found is None:
            return False
        agreement, error = _agreement(found), found.worst.relative_error or 0.0
        return any(
            agreement + _noise(least, found.samples) >= least and error <= most
            for least, most in _GOOD
        )


def with_fewer_scales(
    file: ModelFile, job: Conversion, source: KerasSource, converted: Converted
) -> ModelFile:
    """Return a file whose dense kernels have one scale where that is smaller and loses nothing.

    Measured on all samples that the file is not reported on: few would let noise decide.

    Args:
        file: The file.
        job: The conversion that made it.
        source: Its model.
        converted: What the conversion gave.
    """
    samples = not_measured(job.calibration, source.inputs)
    expected = Expected(source, samples)
    with read_as(source.model, converted.weights):
        kernels = source.kernels()
    return merge_scales(file, kernels, lambda made: measure_file(made, expected))


def _size(converted: Converted) -> int:
    return len(converted.file.packed(keep_names=False))


def _agreement(found: Fidelity) -> float:
    return 1.0 if found.agreement is None else found.agreement


def _noise(agreement: float, samples: int) -> float:
    """Return the standard deviation of an agreement that is measured on some samples."""
    return math.sqrt(agreement * (1.0 - agreement) / samples)


def _is_better(new: Fidelity, old: Fidelity, factor: float, deviations: float) -> bool:
    """Whether a way has more equal answers than chance explains, or as many and less error."""
    gain = _agreement(new) - _agreement(old)
    noise = max(_noise(_agreement(old), old.samples), 1.0 / old.samples)
    errors = [found.worst.relative_error or 0.0 for found in (new, old)]
    less = errors[0] < factor * errors[1]
    return gain > deviations * noise or (gain >= -noise and less)
