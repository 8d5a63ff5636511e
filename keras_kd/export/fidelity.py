"""How true a written file is to its model, measured on real samples."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.data.numpy_batches import Batch
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.saved_model import SavedModelSource
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.differences import Differences
from keras_kd.measuring.per_layer import LayerComparison

# Samples that are compared: more would take longer than the conversion.
SAMPLES = 32
# A larger error is said. A good int8 file has 0.01 to 0.1; at 0.5, half of what an output says is
# noise.
_ERROR = 0.3
_AGREEMENT = 0.9
_ERROR_WITH_DISAGREEMENT = 0.15


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How far a file's outputs are from its model's.

    Attributes:
        samples: How many samples were compared.
        output: The output with the largest error.
        relative_error: Root mean square of its difference, divided by its standard deviation in the
            model; infinite where the file gives NaN.
        agreement: Share of equal answers of the first output (of samples, or positions); `None`
            where it has a single unit.
    """

    samples: int
    output: str
    relative_error: float
    agreement: float | None

    @property
    def is_poor(self) -> bool:
        """Whether a user should know."""
        disagrees = self.agreement is not None and self.agreement < _AGREEMENT
        return self.relative_error > (_ERROR_WITH_DISAGREEMENT if disagrees else _ERROR)


def measure_fidelity(
    source: KerasSource | SavedModelSource,
    path: pathlib.Path,
    samples: Sequence[Mapping[str, np.ndarray]],
) -> Fidelity:
    """Run a file and its model on the same samples.

    Args:
        source: The model.
        path: The file.
        samples: Inputs by name, each of batch size 1.

    Returns:
        A `Fidelity`.
    """
    runtime = LiteRuntime(path, xnnpack=None)
    sums = {name: Differences() for name in runtime.output_names}
    same = positions = 0
    for sample in samples:
        expected = source.predict(sample)
        given = runtime.predict(sample)
        for name, values in given.items():
            sums[name].add(expected[name], values.reshape(expected[name].shape))
        first = runtime.output_names[0]
        if expected[first].ndim > 1 and expected[first].shape[-1] > 1:
            answers = np.argmax(expected[first], -1) == np.argmax(given[first], -1)
            same, positions = same + int(answers.sum()), positions + answers.size
    errors = {name: _relative(found) for name, found in sums.items()}
    worst = max(errors, key=errors.__getitem__)
    return Fidelity(len(samples), worst, errors[worst], same / positions if positions else None)


def _relative(found: Differences) -> float:
    error, spread = found.root_mean_square, found.spread
    if error is None or np.isnan(error):
        return 0.0 if error is None else np.inf
    return error / spread if spread else 0.0  # of a constant, nothing is known


def warning_of(
    fidelity: Fidelity,
    source: KerasSource | SavedModelSource,
    path: pathlib.Path,
    samples: Sequence[Mapping[str, np.ndarray]],
    quantization: str,
) -> str:
    """Return what to say of a poor file.

    Args:
        fidelity: What was measured.
        source: The model.
        path: The file.
        samples: Inputs by name, each of batch size 1.
        quantization: Its format.
    """
    agreement = ""
    if fidelity.agreement is not None:
        agreement = f" and {fidelity.agreement:.0%} of its answers are the model's"
    where = _where_it_grows(source, path, samples)
    grows = f" The error grows most in '{where}'." if where else ""
    return (
        f"'{path}' is far from its model: on {fidelity.samples} samples of `representative_data`, "
        f"output '{fidelity.output}' is off by {fidelity.relative_error:.0%} of its spread"
        f"{agreement}.{grows} Received: quantization={quantization!r}. Compare the layers with "
        "keras_kd.compare(model, path, data, per_layer=True), give more representative data, train "
        'with keras_kd.QuantizeAware, or use "int16x8", "dynamic" or "float16".'
    )


def _where_it_grows(
    source: KerasSource | SavedModelSource,
    path: pathlib.Path,
    samples: Sequence[Mapping[str, np.ndarray]],
) -> str | None:
    if not isinstance(source, KerasSource):
        return None
    comparison = LayerComparison(source.model, path)
    comparison.add(Batch(dict(sample), source.structure(sample), None, 1) for sample in samples)
    known: list[Any] = [row for row in comparison.result() if row.growth is not None]
    grown = max(known, key=lambda row: row.growth, default=None)
    return " + ".join(grown.layers) if grown is not None and grown.growth >= 2 else None
