"""quantize_within: as few bits as a limit on what the file may lose allows."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.data.numpy_batches import check_repeats, iterate
from keras_kd.export.calibration import Samples, samples_of
from keras_kd.export.fidelity import Expected
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.metadata import check_labels
from keras_kd.export.options import INTEGER, ExportOptions, check_target
from keras_kd.export.saved_model import source_of
from keras_kd.export.tflite import export_tflite
from keras_kd.models.layers import identity_of
from keras_kd.planning.bit_search import (
    Figures,
    Record,
    Search,
    measure_answers,
    no_labels,
    slack,
)
from keras_kd.planning.mixed_files import OPTIONS, SAID, MixedFiles
from keras_kd.system.arguments import number
from keras_kd.system.files import check_writable
from keras_kd.system.json_values import plain
from keras_kd.system.names import argument_names, refuse_unknown
from keras_kd.system.text_table import text_table
from keras_kd.system.user_warning import warn_user

_BATCH = 32
_LEAST_SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class LayerDecision:
    """The decision on a group of layers that the file computes together.

    Attributes:
        layers: Their paths.
        sensitivity: Relative error of the outputs if only these layers are quantized: root mean
            square of the difference, divided by the standard deviation.
        decision: Their precision in the file: its own format, or a key of `export_tflite`'s
            `exclude`. In an int4 file, layers whose kernels it holds in 8 bits have `"dynamic"`,
            and those with kernels of both `"dynamic + int4"`.
        bytes: Size of their values in the file.
        operations: Their multiply-accumulate operations for one sample.
    """

    layers: tuple[str, ...]
    sensitivity: float
    decision: str
    bytes: int
    operations: int


@dataclasses.dataclass(frozen=True)
class QuantizedWithin:
    """What `quantize_within` found.

    Attributes:
        path: The written file.
        within: Whether it meets the limit on the samples of the report.
        limit: The limit: `{"max_drop": 0.5}` or `{"min_agreement": 0.99}`.
        quantization: The format of all layers that are not in `exclude`.
        exclude: Pass it to `export_tflite(exclude=)` to write the same file.
        calibration: How ranges were found: pass it to `export_tflite(calibration=)`.
        layers: One `LayerDecision` per group of layers, in the order in which they run.
        samples: Number of samples of the report. None of them was used for a decision.
        agreement: Fraction of samples with the same answer from file and model, the smallest of
            all outputs, with XNNPACK's and with LiteRT's built-in kernels.
        accuracy: Accuracy of the file, of the output and the kernels that lose most; `None`
            without labels.
        model_accuracy: Accuracy of the model for this output; `None` without labels.
        bytes: Size of the file.
        integer_operations: Fraction of the multiply-accumulate operations in integers.
    """

    path: pathlib.Path
    within: bool
    limit: dict[str, float]
    quantization: str
    exclude: dict[str, list[str]]
    calibration: str
    layers: tuple[LayerDecision, ...]
    samples: int
    agreement: float
    accuracy: float | None
    model_accuracy: float | None
    bytes: int
    integer_operations: float

    @property
    def drop(self) -> float | None:
        """How many percentage points of accuracy the file loses; `None` without labels."""
        if self.accuracy is None or self.model_accuracy is None:
            return None
        return 100 * (self.model_accuracy - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict for JSON."""
        content = {**dataclasses.asdict(self), "path": os.fspath(self.path), "drop": self.drop}
        return plain(content)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        """Return the table of the layers and what was measured."""
        rows = [["layer", "sensitivity", "decision", "bytes", "operations"]]
        for row in self.layers:
            size, operations = f"{row.bytes:,}", f"{row.operations:,}"
            name = " + ".join(row.layers)
            rows.append([name, f"{row.sensitivity:.2%}", row.decision, size, operations])
        drop = "" if self.drop is None else f", {self.drop:.2f} points of accuracy lost"
        kept = "keeps to" if self.within else "does not keep to"
        limit = ", ".join(f"{name}={value:g}" for name, value in self.limit.items())
        return (
            f"{text_table(rows)}\n"
            f"{self.path}: {self.bytes:,} bytes, {self.integer_operations:.1%} of the operations "
            f"in integers, {self.agreement:.2%} of the model's answers{drop} on {self.samples} "
            f"samples that decided nothing; it {kept} {limit}."
        )


def quantize_within(
    model: Any,
    data: Any,
    path: str | os.PathLike[str],
    *,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    quantization: str = "int8",
    representative_data: Any = None,
    max_samples: int = 2048,
    verbose: bool = True,
    **options: Any,
) -> QuantizedWithin:
    """Write a file with as few bits as a limit on the loss of accuracy allows.

    It starts from the file of `export_tflite`, with the ranges that `calibration="auto"` chooses,
    and converts the model in the same way in the other precisions. The sensitivity of a layer is
    the error in the outputs when it alone is quantized. The most sensitive layers get 16 bits if
    that helps, else float, until the file meets the limit on one half of `data`, with a margin of
    one standard error, with both XNNPACK and LiteRT's built-in kernels. Layers that are not needed
    for a margin of two are quantized again. The figures of the written file are from the other
    half, which was not used for decisions. Every output is held to the limit.

    Args:
        model: A Keras 3 model, or a compressed one.
        data: Validation data with labels (without them for `min_agreement`), as for
            `keras_kd.evaluate_tflite`.
        path: The file to write; ends in `.tflite`. `<name>.tflite.plan.json` beside it holds the
            decisions and everything measured. Run the same call again to resume a killed one.
        max_drop: The largest loss of accuracy, in percentage points. At exactly `0`, the file
            must give at least as many right answers as the model on the samples that decide,
            without a margin. Defaults to `None`.
        min_agreement: The smallest fraction of samples for which file and model must give the same
            answer. At exactly `1.0`, not one of the samples that decide may differ, however few
            they are, without a margin. Defaults to `None`. Pass one of the two.
        quantization: `"int8"` (sensitive layers get 16 bits or float), `"int16x8"` (float) or
            `"int4"` (8 bits or float). Defaults to `"int8"`.
        representative_data: Training data to calibrate with, as in `export_tflite`. Defaults to
            `None`: a third of `data`, which is then used for nothing else.
        max_samples: The most samples of `data` to read: of arrays those at even distances, of
            anything else the first. Defaults to `2048`.
        verbose: Whether to print the progress and the table. Defaults to `True`.
        **options: Further arguments of `export_tflite`: `batch_size`, `calibration`,
            `calibration_batches`, `sparse`, `integer_io`, `class_names`, `preprocessing`,
            `keep_names`.

    Returns:
        A `QuantizedWithin`. Printing it gives the table. If no file meets the limit, the closest
        one is written, with a warning and `within=False`.

    Raises:
        ValueError: If not exactly one limit is given, `path` does not end in `.tflite`, labels of
            an output are missing, `data` has too few samples for the limit (99 % needs 100 samples
            to decide on), an output is not classes, or the export refuses the model.
        TypeError: If `model` is not a Keras 3 model or a compressed one, or an argument does not
            exist.

    Example:

    ```python
    found = keras_kd.quantize_within(student, validation, "exports/student.tflite", max_drop=0.5)
    print(found.exclude, found.integer_operations)
    ```
    """
    known = (*argument_names(quantize_within), "calibration", *OPTIONS, *SAID)
    refuse_unknown("quantize_within", options, known)
    target = check_target(path)
    limit = _checked_limit(max_drop, min_agreement)
    if quantization not in (*INTEGER, "int4"):
        raise ValueError(
            f"`quantize_within` writes 'int8', 'int16x8' and 'int4' files. Received: quantization="
            f"{quantization!r}."
        )
    number("max_samples", max_samples, least=2 * _LEAST_SAMPLES, whole=True)
    check_repeats(representative_data, "representative_data")
    ExportOptions(quantization, integer_io=options.get("integer_io", False))
    check_labels(options.get("class_names"), options.get("preprocessing"))
    source = source_of(model, None, quantization)
    if not isinstance(source, KerasSource):
        raise TypeError(
            "`quantize_within` needs a Keras 3 model or the result of keras_kd.compress. "
            f"Received: {type(model).__name__}."
        )
    record = check_writable(target.with_name(f"{target.name}.plan.json"))
    calibrating, choosing, reporting = _divided(
        data, source, max_samples, representative_data is None and quantization != "int4"
    )
    if max_drop is not None and next(_arrays(choosing.batches[0].y), None) is None:
        raise no_labels(max_drop)
    _check_enough(len(choosing), limit, 2 if calibrating is None else 3)
    representative = representative_data if calibrating is None else calibrating
    calibration = options.pop("calibration", "auto")
    files = MixedFiles(source, quantization, representative, calibration, options)
    search = Search(
        files,
        Expected(source, choosing),
        limit,
        Record(record, _settings(model, files, choosing, reporting)),
        verbose,
    )
    forms = search.run()
    exclude = files.exclude(forms)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not integer throughout")
        written = export_tflite(
            model,
            target,
            quantization,
            representative,
            exclude=exclude or None,
            on_disagreement="ignore",
            calibration=files.calibration,  # what the layers were measured with
            verbose=False,
            **options,
        )
    figures = [
        output
        for xnnpack in (None, False)
        for output in measure_answers(Expected(source, reporting), written, xnnpack)
    ]
    result = _result(files, forms, search, written, figures, limit, len(reporting))
    search.record.finish(result.to_dict())
    if not result.within:
        warn_user(_shortfall(result, search.within))
    if verbose:
        print(result)
    return result


def _checked_limit(max_drop: float | None, min_agreement: float | None) -> dict[str, float]:
    if (max_drop is None) == (min_agreement is None):
        raise ValueError(
            "`quantize_within` needs one limit: max_drop (percentage points of accuracy) or "
            f"min_agreement (share of equal answers). Received: max_drop={max_drop!r}, "
            f"min_agreement={min_agreement!r}."
        )
    number("max_drop", max_drop, least=0.0, most=100.0, optional=True)
    number("min_agreement", min_agreement, least=0.0, most=1.0, optional=True)
    given = {"max_drop": max_drop, "min_agreement": min_agreement}
    return {name: float(value) for name, value in given.items() if value is not None}


def _check_enough(samples: int, limit: dict[str, float], parts: int) -> None:
    """Refuse samples on which a file that breaks the limit may well make no mistake."""
    (name, value), allowed = next(iter(limit.items())), slack(limit)
    least = math.ceil(1.0 / allowed - 1e-9) if allowed else 0
    if samples < least:
        raise ValueError(
            f"`data` leaves {samples} samples to decide on, too few to tell {name}={value:g} from "
            f"less. Received: {name}={value:g}. Give `data` of {parts * least} samples "
            f"(max_samples={parts * least}), or another limit."
        )


def _divided(
    data: Any, source: KerasSource, count: int, calibrates: bool
) -> tuple[Any, Samples, Samples]:
    """Return what calibrates, if anything does, what decides, and what is reported on."""
    batches = iterate(data, source.inputs, _BATCH, "data", count)
    taken = [(batch, i) for batch in batches for i in range(batch.size)]
    if len(taken) < (3 if calibrates else 2) * _LEAST_SAMPLES:
        raise ValueError(
            f"`data` has {len(taken)} samples, too few to decide on one part and to report on "
            f"another. Received: {len(taken)} samples. Give at least "
            f"{(3 if calibrates else 2) * _LEAST_SAMPLES}."
        )
    order = np.random.default_rng(0).permutation(len(taken)).tolist()
    first = len(taken) // 3 if calibrates else 0
    half = (len(taken) - first) // 2
    parts = (order[:first], order[first : first + half], order[first + half :])
    ours, choosing, reporting = ([taken[i] for i in part] for part in parts)
    calibrating: Any = None
    if ours:
        singles = [{n: x[i : i + 1] for n, x in batch.inputs.items()} for batch, i in ours]

        def one_by_one() -> Iterator[Any]:
            return iter(singles)

        calibrating = one_by_one  # samples of several lengths stay batches of one
        if len({tuple(x.shape for x in single.values()) for single in singles}) == 1:
            calibrating = {n: np.concatenate([each[n] for each in singles]) for n in singles[0]}
    decides, reports = (
        samples_of(part, source.inputs, held_out=True) for part in (choosing, reporting)
    )
    return calibrating, decides, reports


def _settings(
    model: Any, files: MixedFiles, choosing: Samples, reporting: Samples
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for batch in (*choosing.batches, *reporting.batches):
        for x in (*batch.inputs.values(), *_arrays(batch.y), *_arrays(batch.sample_weight)):
            digest.update(np.ascontiguousarray(x).tobytes())
    return {
        "format": 2,
        **identity_of(getattr(model, "model", model)),
        "data": digest.hexdigest(),
        "files": files.digest(),
    }


def _arrays(y: Any) -> Iterator[np.ndarray]:
    if isinstance(y, Mapping):
        y = tuple(y.values())
    for part in y if isinstance(y, (tuple, list)) else (y,):
        if part is not None:
            yield np.asarray(part)


def _result(
    files: MixedFiles,
    forms: Mapping[int, str],
    search: Search,
    path: pathlib.Path,
    figures: Sequence[Figures],
    limit: dict[str, float],
    samples: int,
) -> QuantizedWithin:
    sizes = files.sizes(forms)
    rows = tuple(
        LayerDecision(
            layers=files.units[i],
            sensitivity=math.sqrt(search.noise(i, files.quantization)),
            decision=files.precision(i, forms.get(i, files.quantization)),
            bytes=sizes[i],
            operations=files.operations(i),
        )
        for i in files.units
    )
    labeled = [found for found in figures if found.lost is not None]
    worst = max(labeled, key=lambda found: found.lost or 0.0, default=figures[0])
    return QuantizedWithin(
        path=path,
        within=min(found.spare(limit) for found in figures) >= 0,
        limit=limit,
        quantization=files.quantization,
        exclude=files.exclude(forms),
        calibration=files.calibration,
        layers=rows,
        samples=samples,
        agreement=min(found.agreement for found in figures),
        accuracy=worst.accuracy,
        model_accuracy=worst.model_accuracy,
        bytes=path.stat().st_size,
        integer_operations=files.integer_operations(forms),
    )


def _shortfall(result: QuantizedWithin, found: bool) -> str:
    limit = ", ".join(f"{name}={value:g}" for name, value in result.limit.items())
    drop = "" if result.drop is None else f" and loses {result.drop:.2f} points of accuracy"
    tighter = ", or a tighter limit" if slack(result.limit) else " to decide on, or a looser limit"
    advice = (
        f"It kept to the limit on the samples that decided: give more data{tighter}."
        if found
        else "No mixture did, not even with all layers in float that can be: what remains comes "
        "from the others."
    )
    return (
        f"'{result.path}' does not keep to the limit: it gives {result.agreement:.2%} of the "
        f"model's answers{drop}. Received: {limit}. {advice}"
    )
