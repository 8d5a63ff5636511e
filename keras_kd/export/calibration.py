"""Representative data: which samples are taken, and whether they are enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd.data.input import Input
from keras_kd.data.labels import class_labels
from keras_kd.data.numpy_batches import is_arrays, iterate, select_arrays

# Without `calibration_batches`.
_SAMPLES = 256
# Batches that arrays and unbatched data sets are cut into.
_BATCH = 32
# With fewer, outputs move away from the float model's: see `benchmarks/export_formats.py`.
ENOUGH_SAMPLES = 32
_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The samples with which ranges are calibrated.

    Attributes:
        samples: Arrays by input name, each of batch size 1.
        batches: How many batches they come from.
        labels: The labels seen, or `None` where the data has none that are classes.
    """

    samples: list[dict[str, np.ndarray]]
    batches: int
    labels: np.ndarray | None

    def some(self, count: int) -> list[dict[str, np.ndarray]]:
        """Return `count` of the samples at even distances, fewer if there are fewer."""
        chosen = np.linspace(0, len(self.samples) - 1, min(count, len(self.samples)))
        return [self.samples[i] for i in chosen.astype(int)]

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
    """Take samples, in the order of the data; of arrays, at even distances.

    Args:
        data: What `keras_kd.data.numpy_batches.iterate` accepts.
        inputs: The model's inputs.
        batches: How many batches are taken; of arrays and of data sets which are not batched, a
            batch is 32 samples. `None`: as many as give 256 samples.

    Returns:
        A `Calibration`.

    Raises:
        ValueError: If the data is empty, has fewer batches than are to be taken, holds NaN or
            does not fit the inputs.
    """
    argument = "representative_data"
    if is_arrays(data):
        data = select_arrays(data, _SAMPLES if batches is None else _BATCH * batches, argument)
    samples: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    read = 0
    for batch in iterate(data, inputs, _BATCH, argument):
        count = batch.size if batches else min(batch.size, _SAMPLES - len(samples))
        samples += [{n: a[i : i + 1] for n, a in batch.inputs.items()} for i in range(count)]
        y = class_labels(batch.y)
        if hasattr(y, "dtype") and np.ndim(y) in (1, 2):
            labels.append(np.asarray(y)[:count])
        read += 1
        if read == batches or (batches is None and len(samples) == _SAMPLES):
            break
    if not samples:
        raise ValueError(f"`{argument}` is empty. Give at least one batch of the training data.")
    if batches is not None and read < batches:
        raise ValueError(
            f"`calibration_batches={batches}`, but `{argument}` has {read} "
            f"batch{'es' if read > 1 else ''}. Give more data, or calibration_batches={read}."
        )
    for sample in samples:
        for name, array in sample.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"`{argument}` holds NaN or infinite values for input '{name}'.")
    same = len({label.shape[1:] for label in labels}) == 1
    return Calibration(samples, read, np.concatenate(labels) if same else None)


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
            f"The ranges of activations come from {count} sample{'s' if count > 1 else ''}: what "
            "lies outside of them is clipped, and below "
            f"{ENOUGH_SAMPLES} samples outputs move away from the float model's; give more: "
            "representative_data=train, calibration_batches=8."
        )
    for name in calibration.samples[0] if count > 1 else ():
        arrays = [sample[name] for sample in calibration.samples]
        if all((array == arrays[0].flat[0]).all() for array in arrays):
            sentences.append(
                f"Input '{name}' is {arrays[0].flat[0]:g} throughout `representative_data`: ranges "
                "taken from it mean nothing. Give training data as the model is trained on it."
            )
    missing = calibration.missing_classes(units)
    if missing:
        names = [repr(class_names[i]) if class_names else str(i) for i in missing[:_NAMED]]
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        sentences.append(
            f"No sample of the class{'es' if len(missing) > 1 else ''} {', '.join(names)}{more} is "
            f"among the {count} of `representative_data`, so that their activations may be "
            "clipped; give data that is shuffled: representative_data=train.shuffle(10_000), or "
            "more batches with calibration_batches=."
        )
    return sentences
