"""What is right, what agrees and what differs in one output, over batches."""

from __future__ import annotations

import numpy as np

from keras_kd.measuring.answers import (
    MULTILABEL,
    REGRESSION,
    answers,
    class_indices,
    task_of,
    unit_labels,
)
from keras_kd.measuring.class_counts import ClassCounts
from keras_kd.measuring.confidence import DEFAULT_BINS, ConfidenceBins, confidences
from keras_kd.measuring.differences import Differences


class Scores:
    """Sums over batches for one output of a file.

    Args:
        name: The output, for error messages.
        from_logits: Whether it gives logits.
        task: What it is for, or `None` to let the first batch tell.
        measures_errors: Whether metrics were asked for, of errors only.
        sigmoid: Whether the output is one of a sigmoid.
        bins: Number of bins of confidence.

    Attributes:
        name: The output.
        samples: How many samples were added.
        not_finite: How many of them have a NaN or infinite output.
        task: What the output was taken for.
        differences: Between the model's outputs and the file's.
        counts: Right and wrong answers of the file by class, or `None` without labels.
        calibration: Confidence and right answers.
    """

    def __init__(
        self,
        name: str,
        from_logits: bool,
        task: str | None = None,
        measures_errors: bool = False,
        sigmoid: bool = False,
        bins: int = DEFAULT_BINS,
    ) -> None:
        self.name = name
        self._from_logits = from_logits
        self._threshold = 0.0 if from_logits else 0.5
        self._hints = measures_errors, sigmoid
        self._same = self._compared = 0
        self.counts: ClassCounts | None = None
        self._model_counts: ClassCounts | None = None
        self.task = task
        self.differences = Differences()
        self.calibration = ConfidenceBins(bins)
        self.samples = self.not_finite = 0

    def add(
        self, output: np.ndarray, labels: np.ndarray | None, reference: np.ndarray | None
    ) -> None:
        """Add a batch.

        Args:
            output: What the file gives.
            labels: What the data says, or `None`.
            reference: What the Keras model gives, or `None`.

        Raises:
            ValueError: If shapes or labels do not fit.
        """
        if reference is not None and reference.shape != output.shape:
            raise ValueError(
                f"`model` gives an output of shape {reference.shape} where the file gives "
                f"{output.shape}: the file was not made from this model."
            )
        if self.task is None:
            self.task = task_of(labels, output, *self._hints)
        self.samples += len(output)
        finite = np.isfinite(output.reshape(len(output), -1)).all(axis=1)
        self.not_finite += int(np.sum(~finite))
        if reference is not None:
            self.differences.add(reference, output)
        if self.task == REGRESSION:
            return
        given = answers(output, self.task, self._threshold)
        expected = None if reference is None else answers(reference, self.task, self._threshold)
        if expected is not None:
            self._same += int(np.sum(expected == given))
            self._compared += given.size
        if labels is not None:
            self._count(output, labels, given, expected)

    def _count(
        self,
        output: np.ndarray,
        labels: np.ndarray,
        given: np.ndarray,
        expected: np.ndarray | None,
    ) -> None:
        units = output.shape[-1] if output.ndim > 1 else 1
        if self.counts is None or self._model_counts is None:
            classes = units if self.task == MULTILABEL else max(units, 2)
            self.counts, self._model_counts = ClassCounts(classes), ClassCounts(classes)
        if self.task == MULTILABEL:
            indices = unit_labels(labels, output)
            self.counts.add_units(indices, given)
            if expected is not None:
                self._model_counts.add_units(indices, expected)
            return
        indices = class_indices(labels, output, self.name)
        self.counts.add(indices, given)
        if expected is not None:
            self._model_counts.add(indices, expected)
        self.calibration.add(confidences(output, self._from_logits), indices == given)

    @property
    def accuracy(self) -> float | None:
        """Share of the file's answers which are right."""
        return None if self.counts is None else self.counts.accuracy

    @property
    def model_accuracy(self) -> float | None:
        """Share of the model's answers which are right."""
        return None if self._model_counts is None else self._model_counts.accuracy

    @property
    def agreement(self) -> float | None:
        """Share of equal answers of file and model."""
        return self._same / self._compared if self._compared else None
