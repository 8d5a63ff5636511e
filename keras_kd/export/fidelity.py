"""The difference between a written file and its model, measured on real samples."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_kd.data.labels import class_labels
from keras_kd.data.numpy_batches import Batch
from keras_kd.export.calibration import Samples
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.saved_model import SavedModelSource
from keras_kd.export.signatures import DEFAULT_SIGNATURE
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.litert.signature_graphs import each_first
from keras_kd.measuring.answers import are_answers, by_output, likely_task
from keras_kd.measuring.per_layer import LayerComparison, LayerDifference
from keras_kd.measuring.positions import Positions
from keras_kd.measuring.scores import Scores
from keras_kd.measuring.selection import file_end
from keras_kd.system.json_values import plain

Source = KerasSource | SavedModelSource

# A good int8 file has a relative error of 0.01 to 0.1; at 0.5, half of what an output says is
# noise.
_POOR = 0.3
# Of a file with fewer equal answers or a larger error, the layers are compared.
_TRUE = (0.99, 0.03)
_LAYER_SAMPLES = 32
_MOST_LAYERS = 5
_GROWS = 2.0
# The model's answers are kept between measurements up to this size.
_KEPT_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class OutputFidelity:
    """The difference between one output of a file, computed by one set of kernels, and the model's.

    Attributes:
        output: The output's name.
        kernels: `"xnnpack"`, LiteRT's default delegate, or `"builtin"`, LiteRT's own kernels, which
            compute as chips and microcontrollers do.
        agreement: Fraction of samples (or positions) for which file and model give the same
            answer; `None` for an output that is not classes.
        signal_to_noise_db: `10 log10(sum(output²) / sum(difference²))` in decibels; infinite if
            nothing differs, negative infinity if the file gives NaN; `None` for an output that
            holds classes or booleans, which only agree or differ.
        relative_error: Root mean square of the difference, divided by the standard deviation of the
            model's output. Where that output is constant, divided by its root mean square; infinite
            where that is 0 and the file differs by more than rounding, or if the file gives NaN;
            `None` as above.
        signature: The signature that gives it. Defaults to `"serving_default"`.
    """

    output: str
    kernels: str
    agreement: float | None
    signal_to_noise_db: float | None
    relative_error: float | None
    signature: str = DEFAULT_SIGNATURE


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """The difference between an exported file and its model, on real samples.

    Every signature is measured. Labels that are arrays are of the one that gives the model's own
    outputs, or of the first one if none does. Positions that the model's mask leaves out or whose
    sample weight is 0 do not count.

    Attributes:
        samples: Number of samples that ran through the model and the file.
        held_out: Whether none of them calibrated the file. `False` if there was too little data to
            hold some out.
        outputs: One `OutputFidelity` per signature, output and set of kernels. A file that XNNPACK
            does not run has only the `"builtin"` ones.
        layers: Up to five layers in which the relative error at least doubles, the largest growth
            first. Searched if one answer in a hundred differs or the relative error is above 0.03;
            empty for models of `tf_keras`.
        calibration: The method that found the ranges, as in `export_tflite`: `"percentile"`,
            `"mse+equalization"`, ...; `None` if nothing was calibrated.
    """

    samples: int
    held_out: bool
    outputs: tuple[OutputFidelity, ...]
    layers: tuple[LayerDifference, ...] = ()
    calibration: str | None = None

    @property
    def agreement(self) -> float | None:
        """The smallest agreement of all outputs and kernels; `None` if no output gives classes."""
        return min((o.agreement for o in self.outputs if o.agreement is not None), default=None)

    @property
    def signal_to_noise_db(self) -> float | None:
        """The smallest signal-to-noise ratio of all outputs and kernels; `None` without any."""
        found = (o.signal_to_noise_db for o in self.outputs if o.signal_to_noise_db is not None)
        return min(found, default=None)

    @property
    def worst(self) -> OutputFidelity:
        """The output and kernels with the largest relative error."""
        return max(self.outputs, key=lambda o: -1 if o.relative_error is None else o.relative_error)

    def is_poor(self, min_agreement: float | None) -> bool:
        """Whether fewer answers are equal, or a relative error exceeds 30 %."""
        few = self.agreement is not None and self.agreement < (min_agreement or 0.0)
        return few or (self.worst.relative_error or 0.0) > _POOR

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict for JSON, with `None` for infinite numbers."""
        content: dict[str, Any] = plain(
            {
                "agreement": self.agreement,
                "signal_to_noise_db": self.signal_to_noise_db,
                **dataclasses.asdict(self),
            }
        )
        return content

    def __str__(self) -> str:
        """Return agreement, signal-to-noise ratio and samples, as the line of an export."""
        agreement, noise = self.agreement, self.signal_to_noise_db
        parts = [] if agreement is None else [f"{agreement:.1%} of the model's answers"]
        parts += [] if noise is None else [f"{noise:.1f} dB"]
        samples = "held-out samples" if self.held_out else "samples that calibrated it"
        return f"{', '.join(parts)} on {self.samples} {samples}"


if TYPE_CHECKING:
    _Path = pathlib.Path
else:  # before Python 3.12, `pathlib.Path` itself cannot be derived from
    _Path = type(pathlib.Path())


class ExportedFile(_Path):
    """The path of a file that `export_tflite` wrote, with its fidelity.

    It is a `pathlib.Path`; paths derived from it (`path.parent`) have no fidelity.

    Attributes:
        fidelity: The difference from its model; `None` without data, or if LiteRT could not run
            the file.
    """

    fidelity: Fidelity | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep `fidelity` in copies."""
        return ExportedFile, (str(self),), {"fidelity": self.fidelity}


class Expected:
    """What a model answers for the samples that its files are measured on.

    Args:
        source: The model.
        samples: The samples.
        signature: The signature that answers. Defaults to `None`: the first one.
    """

    def __init__(self, source: Source, samples: Samples, signature: str | None = None) -> None:
        self.source = source
        self.samples = samples
        self._signature = signature
        self._parts: dict[str, Expected] = {}
        self._known: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] | None = None

    def of(self, signature: str) -> Expected:
        """Return what a signature answers."""
        if signature not in self._parts:
            self._parts[signature] = Expected(self.source, self.samples, signature)
        return self._parts[signature]

    def __iter__(
        self,
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Yield every batch with the model's outputs and their masks, by name."""
        if self._known is not None:
            for batch, (outputs, masks) in zip(self.samples.batches, self._known, strict=True):
                yield batch, outputs, masks
            return
        found, size = [], 0
        for batch in self.samples.batches:
            outputs, masks = self.source.predict(batch.inputs, self._signature)
            size += sum(array.nbytes for array in outputs.values())
            if size <= _KEPT_BYTES:
                found.append((outputs, masks))
            yield batch, outputs, masks
        if size <= _KEPT_BYTES:
            self._known = found


def measure_fidelity(
    expected: Expected, path: str | os.PathLike[str], layers: bool = True
) -> Fidelity:
    """Run every signature of a file and its model on the same samples.

    Args:
        expected: The model and the samples.
        path: The file.
        layers: Whether to look for the layers in which the error grows. Defaults to `True`.

    Returns:
        A `Fidelity`.
    """
    keys = list(expected.source.signature_names)
    with each_first(path, keys) as paths:
        found = {key: _measured(expected.of(key), key, paths[key]) for key in keys}
        outputs = tuple(output for rows in found.values() for output in rows)
        fidelity = Fidelity(len(expected.samples), expected.samples.held_out, outputs)
        untrue = [key for key in keys if layers and not all(map(_is_true, found[key]))]
        grown = [row for key in untrue for row in _grown(expected, paths[key], key == keys[0])]
    largest: dict[tuple[str, ...], LayerDifference] = {}  # a layer may be in several signatures
    for row in sorted(grown, key=lambda row: row.growth or 0.0, reverse=True):
        largest.setdefault(row.layers, row)
    return dataclasses.replace(fidelity, layers=tuple(largest.values())[:_MOST_LAYERS])


def _measured(
    expected: Expected, signature: str, path: str | os.PathLike[str]
) -> list[OutputFidelity]:
    """Measure one signature, with a file that runs it first."""
    first = LiteRuntime(path, xnnpack=None)
    runtimes = {"xnnpack": first} if first.xnnpack else {"builtin": first}
    if first.xnnpack:
        runtimes["builtin"] = LiteRuntime(path, xnnpack=False)
    names = first.output_names
    source = expected.source
    ends, answers = source.ends(signature), signature == source.answering
    sums = {
        (name, kernels): _Output(
            i, name, file_end(first.file, i) or ends.get(name), source, answers and not i
        )
        for i, name in enumerate(names)
        for kernels in runtimes
    }
    for batch, outputs, masks in expected:
        found = {kernels: runtime.predict(batch.inputs) for kernels, runtime in runtimes.items()}
        y = class_labels(batch.y)
        labels = _by_output(y if answers or isinstance(y, Mapping) else None, names, "labels")
        weights = _by_output(batch.sample_weight, names, "sample weights", None)
        mask = [masks.get(name) for name in names]
        for (name, kernels), part in sums.items():
            i = names.index(name)
            part.add(batch, outputs[name], found[kernels][name], mask, labels[i], weights)
    return [part.result(signature, kernels) for (_, kernels), part in sums.items()]


def _is_true(output: OutputFidelity) -> bool:
    agreement, error = _TRUE
    return (output.agreement is None or output.agreement >= agreement) and (
        (output.relative_error or 0.0) <= error
    )


class _Output:
    """Sums over batches for one output of a file."""

    def __init__(
        self, position: int, name: str, end: str | None, source: Source, first: bool
    ) -> None:
        self._name, self._end, self._first = name, end, first
        self._of_errors = source.minimizes_errors(name)
        self._positions = Positions(position)
        self._scores = Scores(name, end)

    def add(
        self,
        batch: Batch,
        expected: np.ndarray,
        given: np.ndarray,
        masks: Sequence[np.ndarray | None],
        labels: np.ndarray | None,
        weights: Sequence[np.ndarray | None],
    ) -> None:
        given = given.reshape(expected.shape)
        counted = self._positions.counted(batch, expected, masks, weights)
        if self._scores.task is None:
            floats = [x for x in batch.inputs.values() if x.dtype.kind == "f"]
            task = self._scores.task = likely_task(
                expected, labels, self._end, floats, self._of_errors, self._first
            )
            self._scores.chosen = are_answers(expected, task, labels)
        self._scores.add(given, None, expected, counted)

    def result(self, signature: str, kernels: str) -> OutputFidelity:
        sums = self._scores.differences
        noise, error = sums.signal_to_noise_db, sums.root_mean_square
        if noise is None or error is None:  # it holds answers, or no position counted
            noise = error = None
        elif math.isnan(error):
            noise, error = -math.inf, math.inf
        else:
            error = sums.relative_error
        agreement = self._scores.agreement
        return OutputFidelity(self._name, kernels, agreement, noise, error, signature)


def _by_output(
    values: Any, names: Sequence[str], what: str, alone: int | None = 0
) -> list[np.ndarray | None]:
    """Return labels or weights by output; none where they belong to something else."""
    try:
        return by_output(values, names, what, others=True, alone=alone)
    except ValueError:
        return [None] * len(names)


def _grown(
    expected: Expected, path: str | os.PathLike[str], numbered: bool
) -> list[LayerDifference]:
    """Return the layers in which the error grows; `numbered` if operators are those of the file."""
    source = expected.source
    if not isinstance(source, KerasSource):
        return []
    comparison = LayerComparison(source.model, path)
    comparison.add(
        Batch(sample, source.structure(sample), None, 1)
        for sample in expected.samples.singles(_LAYER_SAMPLES)
    )
    return [
        row if numbered else dataclasses.replace(row, operator=None)
        for row in comparison.result()
        if (row.growth or 0.0) >= _GROWS
    ]


def shortfall(fidelity: Fidelity, target: Any, quantization: str, limit: float | None) -> str:
    """Return how far a file is from its model, and the layer to look at.

    Args:
        fidelity: What was measured.
        target: The file's final name.
        quantization: Its format.
        limit: The least agreement that was asked for.
    """
    worst = fidelity.worst
    several = len({output.signature for output in fidelity.outputs}) > 1

    def where(output: OutputFidelity) -> str:
        return f" in signature '{output.signature}'" if several else ""

    samples = "held-out samples" if fidelity.held_out else "samples that calibrated it"
    parts = []
    if fidelity.agreement is not None:
        least = next(o for o in fidelity.outputs if o.agreement == fidelity.agreement)
        parts.append(f"{least.agreement:.1%} of its answers{where(least)} agree")
    if worst.relative_error is not None:
        kernels = "XNNPACK" if worst.kernels == "xnnpack" else "LiteRT's built-in kernels"
        parts.append(
            f"the relative error of output '{worst.output}'{where(worst)} is "
            f"{worst.relative_error:.0%} "
            f"({worst.signal_to_noise_db:.1f} dB, {kernels})"
        )
    grows = ""
    if fidelity.layers:
        grows = f" The error grows most in '{' + '.join(fidelity.layers[0].layers)}'."
    calibration = ""
    if fidelity.calibration is not None:
        calibration = f", calibration={fidelity.calibration!r}"
    return (
        f"'{target}' differs from its model: on {fidelity.samples} {samples}, "
        f"{', and '.join(parts)}.{grows} Received: "
        f"quantization={quantization!r}, min_agreement={limit}{calibration}."
    )
