"""Representative data: which samples calibrate, which are kept to measure, if there are enough."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_kd.data.input import Input
from keras_kd.data.labels import class_labels
from keras_kd.data.numpy_batches import Batch, arrays_of, is_arrays, iterate, joined, select_arrays

# Samples that calibrate if `calibration_batches` is not given.
_SAMPLES = 256
# Batches that arrays and unbatched data sets are cut into.
_BATCH = 32
# With fewer, outputs move away from the float model's: see `benchmarks/export_formats.py`.
ENOUGH_SAMPLES = 32
_NAMED = 8
# Samples that a file is measured on, and those that choose between ways to calibrate it.
MEASURED = 128
_CHOOSING = 128
# Of fewer samples, one that differs changes the agreement by more than 6 %.
_LEAST_KEPT = 16
_AT_ONCE = 16

_Row = tuple[Batch, int]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples that a file and its model are run on.

    Attributes:
        batches: The samples, in batches of inputs of equal sizes.
        held_out: Whether none of them calibrated the file.
    """

    batches: tuple[Batch, ...] = ()
    held_out: bool = True

    def __len__(self) -> int:
        return sum(batch.size for batch in self.batches)

    def singles(self, count: int) -> list[dict[str, np.ndarray]]:
        """Return `count` of the inputs at even distances, each of batch size 1."""
        rows = [(batch, i) for batch in self.batches for i in range(batch.size)]
        return _singles(_some(rows, count))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The samples with which ranges are calibrated, and those kept from it.

    Attributes:
        samples: Arrays by input name, each of batch size 1.
        batches: How many batches were read for them.
        labels: Their labels, or `None` where the data has none that are classes.
        measured: What the file is measured on.
        choosing: What ways to calibrate are compared on; none of `measured`.
    """

    samples: list[dict[str, np.ndarray]]
    batches: int
    labels: np.ndarray | None
    measured: Samples = Samples()
    choosing: Samples = Samples()

    def missing_classes(self, units: int | None) -> list[int]:
        """Return the classes of which there is no sample.

        Args:
            units: How many numbers the model gives for a sample; `None` where that is not known.
        """
        if self.labels is None or units is None:
            return []
        labels = self.labels
        if labels.ndim == 2 and labels.shape[1] == units and units > 1:
            if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
                return []
            labels = labels.argmax(axis=1)
        labels = labels.ravel() if labels.ndim == 1 or labels.shape[1:] == (1,) else np.zeros(0)
        classes = max(units, 2)
        if not labels.size or not np.isin(labels, np.arange(classes)).all():
            return []
        return sorted(set(range(classes)) - set(labels.astype(int).tolist()))


def calibrate(data: Any, inputs: Sequence[Input], batches: int | None) -> Calibration:
    """Divide data into samples that calibrate and samples that are kept from it.

    Of data sets, the first batches calibrate and the next are kept; of arrays, samples at even
    distances. Where too few would be left, a quarter of all is kept, unless `batches` says how many
    calibrate. Samples that calibrate are not measured a second time.

    Args:
        data: What `keras_kd.data.numpy_batches.iterate` accepts.
        inputs: The model's inputs.
        batches: How many batches calibrate; of arrays and of data sets which are not batched, a
            batch is 32 samples. `None`: as many as give 256 samples.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: If the data is empty, has fewer batches than are to be taken, holds NaN or
            does not fit the inputs.
    """
    argument = "representative_data"
    count = _SAMPLES if batches is None else None
    kept = MEASURED + _CHOOSING
    if is_arrays(data := arrays_of(data, argument)):
        count = count or _BATCH * (batches or 1)
        data = select_arrays(data, count, argument, kept)
    rows: list[_Row] = []
    read = 0
    for batch in iterate(data, inputs, _BATCH, argument):
        _refuse_not_finite(batch, argument)
        read += count is None or len(rows) < count
        rows += [(batch, i) for i in range(batch.size)]
        if count is None and read == batches:
            count = len(rows)
        if count is not None and len(rows) >= count + kept:
            break
    if not rows:
        raise ValueError(f"`{argument}` is empty. Pass at least one batch of the training data.")
    if batches is not None and read < batches:
        raise ValueError(
            f"`calibration_batches={batches}`, but `{argument}` has {read} "
            f"batch{'es' if read > 1 else ''}. Pass more data, or calibration_batches={read}."
        )
    ours, others = _divided(rows, count or len(rows), batches is None)
    chosen = others[: min(_CHOOSING, len(others) // 2)]
    chosen = chosen if len(chosen) >= _LEAST_KEPT else []
    measured = others[len(chosen) :][:MEASURED]
    return Calibration(
        _singles(ours),
        read,
        _labels(ours),
        samples_of(measured or _some(ours, MEASURED), inputs, bool(measured)),
        samples_of(chosen or _some(ours, _CHOOSING), inputs, bool(chosen)),
    )


def to_measure(
    data: Any, inputs: Sequence[Input], argument: str, calibration: Calibration | None = None
) -> Samples:
    """Return the samples of data that a file is measured on: the first, of arrays spread evenly.

    Args:
        data: What `keras_kd.data.numpy_batches.iterate` accepts.
        inputs: The model's inputs.
        argument: The name under which the user gave it.
        calibration: The samples that calibrate. Defaults to `None`: nothing is calibrated.

    Raises:
        ValueError: If the data is empty, holds NaN or does not fit the inputs.
    """
    rows = _first_rows(data, inputs, argument, MEASURED)
    known = set() if calibration is None else {_key(sample) for sample in calibration.samples}
    return samples_of(rows, inputs, known.isdisjoint(_key(sample) for sample in _singles(rows)))


def to_measure_and_choose(data: Any, inputs: Sequence[Input]) -> tuple[Samples, Samples]:
    """Return the samples of data that a file without ranges is measured on, and those that choose.

    Args:
        data: Representative data, as for `to_measure`.
        inputs: The model's inputs.

    Returns:
        Two groups. The second one, on which ways to write the file are compared, is empty where
        there are too few samples for both.
    """
    found = _first_rows(data, inputs, "representative_data", MEASURED + _CHOOSING)
    rows = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    count = min(_CHOOSING, len(rows) // 2)
    count = count if count >= _LEAST_KEPT else 0
    return samples_of(rows[count:][:MEASURED], inputs, True), samples_of(rows[:count], inputs, True)


def _first_rows(data: Any, inputs: Sequence[Input], argument: str, count: int) -> list[_Row]:
    rows: list[_Row] = []
    for batch in iterate(data, inputs, _BATCH, argument, count):
        _refuse_not_finite(batch, argument)
        rows += [(batch, i) for i in range(batch.size)]
    if not rows:
        raise ValueError(f"`{argument}` is empty. Pass at least one batch.")
    return rows


def stacked(
    calibration: Calibration | None, inputs: Sequence[Input]
) -> Iterator[dict[str, np.ndarray]]:
    """Return the samples that calibrate in batches of up to 32, where they are of equal sizes.

    Args:
        calibration: The samples, or `None`.
        inputs: The model's inputs.
    """
    singles = [] if calibration is None else calibration.samples
    at_once = _BATCH if inputs[0].shape[:1] == (None,) else 1
    for _, group in itertools.groupby(singles, lambda one: [x.shape for x in one.values()]):
        same = list(group)
        for start in range(0, len(same), at_once):
            part = same[start : start + at_once]
            yield {name: np.concatenate([one[name] for one in part]) for name in part[0]}


def not_measured(calibration: Calibration | None, inputs: Sequence[Input]) -> Samples:
    """Return up to 128 samples that the file is not reported on: of those that choose or calibrate.

    Args:
        calibration: The samples, or `None`.
        inputs: The model's inputs.
    """
    found = [] if calibration is None else list(calibration.choosing.batches)
    for arrays in stacked(calibration, inputs):
        if sum(batch.size for batch in found) >= MEASURED:
            break
        found.append(Batch(arrays, arrays, None, len(next(iter(arrays.values())))))
    return Samples(tuple(found), held_out=False)


def _divided(rows: list[_Row], count: int, may_keep: bool) -> tuple[list[_Row], list[_Row]]:
    """Return what calibrates, and what is kept, in an order which has nothing to do with labels."""
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    kept = {i for i in order if i >= count}
    if len(kept) < _LEAST_KEPT and may_keep and len(rows) >= 4 * _LEAST_KEPT:
        kept = set(order[: len(rows) // 4])
    ours = [row for i, row in enumerate(rows) if i not in kept]
    known = {_key(sample) for sample in _singles(ours)}
    others = [rows[i] for i in order if i in kept]
    others = [row for row in others if _key(_singles([row])[0]) not in known]
    return ours, others if len(others) >= _LEAST_KEPT else []


def _singles(rows: Sequence[_Row]) -> list[dict[str, np.ndarray]]:
    return [{name: x[i : i + 1] for name, x in batch.inputs.items()} for batch, i in rows]


def _key(sample: dict[str, np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in sample.values())


def _some(values: Sequence[Any], count: int) -> list[Any]:
    chosen = np.linspace(0, len(values) - 1, min(count, len(values)))
    return [values[i] for i in chosen.astype(int)]


def samples_of(
    rows: Sequence[tuple[Batch, int]], inputs: Sequence[Input], held_out: bool
) -> Samples:
    """Return rows of batches as samples, neighbors of one shape together.

    Args:
        rows: Batches, and the positions of the rows in them.
        inputs: The model's inputs.
        held_out: Whether they calibrate nothing.
    """
    batches: list[Batch] = []
    at_once = _AT_ONCE if inputs[0].shape[:1] == (None,) else 1

    def sizes(row: _Row) -> list[tuple[int, ...]]:
        return [x.shape[1:] for x in row[0].inputs.values()]

    for _, group in itertools.groupby(rows, sizes):
        same = list(group)
        batches += [joined(same[i : i + at_once]) for i in range(0, len(same), at_once)]
    return Samples(tuple(batches), held_out)


def _labels(rows: Sequence[_Row]) -> np.ndarray | None:
    found = []
    for batch, i in rows:
        y = class_labels(batch.y)
        if hasattr(y, "dtype") and np.ndim(y) in (1, 2):
            found.append(np.asarray(y)[i])
    return np.stack(found) if len({label.shape for label in found}) == 1 else None


def _refuse_not_finite(batch: Batch, argument: str) -> None:
    for name, array in batch.inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"`{argument}` holds NaN or infinite values for input '{name}'.")


def warnings_of(
    calibration: Calibration, units: int | None, class_names: Sequence[str] | None
) -> list[str]:
    """Return what there is to say against the samples, one sentence each.

    Args:
        calibration: The samples.
        units: How many numbers the model gives for a sample; `None` where that is not known.
        class_names: Names of the classes, or `None`.
    """
    sentences = []
    count = len(calibration.samples)
    if count < ENOUGH_SAMPLES:
        sentences.append(
            f"The ranges of activations come from {count} sample{'s' if count > 1 else ''}. Values "
            f"outside of them are clipped, and with fewer than {ENOUGH_SAMPLES} samples the "
            "outputs differ more from the float model's. Pass more: representative_data=train, "
            "calibration_batches=8."
        )
    for name in calibration.samples[0] if count > 1 else ():
        arrays = [sample[name] for sample in calibration.samples]
        if all((array == arrays[0].flat[0]).all() for array in arrays):
            sentences.append(
                f"Input '{name}' is {arrays[0].flat[0]:g} throughout `representative_data`, "
                "so its ranges are meaningless. Pass data preprocessed as in training."
            )
    missing = calibration.missing_classes(units)
    if missing:
        names = [repr(class_names[i]) if class_names else str(i) for i in missing[:_NAMED]]
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        sentences.append(
            f"The {count} samples of `representative_data` lack the "
            f"class{'es' if len(missing) > 1 else ''} {', '.join(names)}{more}, whose activations "
            "may be clipped. Pass shuffled data: representative_data=train.shuffle(10_000), or "
            "more batches with calibration_batches=."
        )
    return sentences
