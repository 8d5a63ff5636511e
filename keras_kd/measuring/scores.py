"""What is right, what agrees and what differs in one output, over batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_kd.litert.probe import check_not_empty
from keras_kd.measuring.answers import (
    MULTILABEL,
    REGRESSION,
    answers,
    are_amounts,
    are_answers,
    class_indices,
    task_of,
    unit_labels,
)
from keras_kd.measuring.confidence import DEFAULT_BINS, ConfidenceBins, confidences
from keras_kd.measuring.differences import Differences
from keras_kd.models.probabilities import PROBABILITIES, look_like_probabilities
from keras_kd.system.user_warning import warn_user

# Lists of this length are still read by somebody; files for them stay below some megabytes.
MOST_CLASSES = 1000
MOST_CLASSES_IN_CONFUSION = 200


class Scores:
    """Sums over batches for one output of a file.

    Args:
        name: The output, for error messages.
        end: How it ends, as `keras_kd.models.probabilities.last_activation`; `None` lets the
            values tell whether it gives logits or probabilities.
        from_logits: Whether it gives logits, above what `end` says. Defaults to `None`.
        task: What it is for, or `None` to let the first batch tell.
        measures_errors: Whether metrics were asked for, of errors only.
        bins: Number of bins of confidence.
        step: The step in which the file rounds the output. Defaults to `0.0`.

    Attributes:
        name: The output.
        samples: How many samples were added.
        not_finite: How many of them have a NaN or infinite output.
        without_model: For how many of them the model alone has one, as integers have none.
        task: What the output was taken for.
        chosen: Whether its numbers are classes; `None` lets the first batch tell.
        differences: Between the model's outputs and the file's, if they are not answers themselves.
    """

    def __init__(
        self,
        name: str,
        end: str | None = None,
        from_logits: bool | None = None,
        task: str | None = None,
        measures_errors: bool = False,
        bins: int = DEFAULT_BINS,
        step: float = 0.0,
    ) -> None:
        self.name = name
        self.task = task
        self.chosen: bool | None = None
        self._end, self._measures_errors, self._step = end, measures_errors, step
        if from_logits is None and end is not None:
            from_logits = end not in PROBABILITIES
        ways = [False, True] if from_logits is None else [from_logits]
        self._readings = {way: _Reading(name, way, bins) for way in ways}
        self._probable = True
        self.differences = Differences()
        self.samples = self.not_finite = self.without_model = 0

    def add(
        self,
        output: np.ndarray,
        labels: np.ndarray | None,
        reference: np.ndarray | None,
        counted: np.ndarray | None = None,
    ) -> None:
        """Add a batch.

        Args:
            output: What the file gives.
            labels: What the data says, or `None`.
            reference: What the Keras model gives, or `None`.
            counted: Which positions count, of the leading axes of the output. Defaults to `None`,
                all.

        Raises:
            ValueError: If shapes or labels do not fit.
        """
        for values in (output, reference):
            check_not_empty(self.name, () if values is None else values.shape)
        if reference is not None and reference.shape != output.shape:
            raise ValueError(
                f"`model` gives an output of shape {reference.shape} where the file gives "
                f"{output.shape}: the file was not made from this model."
            )
        self.samples += len(output)
        finite = np.isfinite(output.reshape(len(output), -1)).all(axis=1)
        self.not_finite += int(np.sum(~finite))
        if reference is not None:
            known = np.isfinite(reference.reshape(len(reference), -1)).all(axis=1)
            self.without_model += int(np.sum(finite & ~known))
        if counted is not None:
            if labels is not None and labels.shape[: counted.ndim] == counted.shape:
                labels = labels[counted]
            output = output[counted]
            reference = None if reference is None else reference[counted]
            if not len(output):
                return
        values, step = (output, self._step) if reference is None else (reference, 0.0)
        if self.task is None:
            sigmoid = self._end == "sigmoid"
            if self._end is None:
                sigmoid = look_like_probabilities(values, each_unit=True, step=step)
            self.task = task_of(labels, output, self._measures_errors, sigmoid)
        if self.chosen is None:
            self.chosen = are_answers(output, self.task, labels)
        if reference is not None and are_amounts(output, self.task, self.chosen):
            self.differences.add(reference, output)
        if self.task == REGRESSION:
            return
        if len(self._readings) > 1 and self._probable:
            each = self.task == MULTILABEL
            self._probable = look_like_probabilities(values, each_unit=each, step=step)
        for reading in self._readings.values():
            reading.add(output, labels, reference, self.task, self.chosen)

    def warn_of_not_finite(self, path: Any) -> None:
        """Warn of samples for which the file or its model gives no numbers."""
        if self.not_finite:
            warn_user(f"'{path}' gives NaN or infinite outputs for {self.not_finite} samples.")
        if self.without_model:
            warn_user(
                f"The model gives NaN or infinite outputs for {self.without_model} samples, for "
                f"which '{path}' gives numbers: they count as different. Check `data` for NaN."
            )

    @property
    def _reading(self) -> _Reading:
        if len(self._readings) == 1:
            return next(iter(self._readings.values()))
        return self._readings[not self._probable]

    @property
    def from_logits(self) -> bool:
        """Whether the output was read as logits."""
        return self._reading.from_logits

    @property
    def counts(self) -> ClassCounts | None:
        """Right and wrong answers of the file by class, or `None` without labels."""
        return self._reading.counts

    @property
    def calibration(self) -> ConfidenceBins:
        """Confidence and right answers."""
        return self._reading.calibration

    @property
    def accuracy(self) -> float | None:
        """Share of the file's answers which are right."""
        return None if self._reading.counts is None else self._reading.counts.accuracy

    @property
    def model_accuracy(self) -> float | None:
        """Share of the model's answers which are right."""
        counts = self._reading.model_counts
        return None if counts is None else counts.accuracy

    @property
    def agreement(self) -> float | None:
        """Share of equal answers of file and model."""
        reading = self._reading
        return reading.same / reading.compared if reading.compared else None


class _Reading:
    """What is counted where the output is read as logits, or as probabilities."""

    def __init__(self, name: str, from_logits: bool, bins: int) -> None:
        self._name, self.from_logits = name, from_logits
        self._threshold = 0.0 if from_logits else 0.5
        self.same = self.compared = 0
        self.counts: ClassCounts | None = None
        self.model_counts: ClassCounts | None = None
        self.calibration = ConfidenceBins(bins)

    def add(self, output: Any, labels: Any, reference: Any, task: str, chosen: bool) -> None:
        given = answers(output, task, self._threshold, chosen)
        expected = None if reference is None else answers(reference, task, self._threshold, chosen)
        answered = _are_numbers(output, given)
        if expected is not None:
            both = answered & _are_numbers(reference, expected)
            self.same += int(np.sum((expected == given) & both))
            self.compared += given.size
        if labels is None:
            return
        units = output.shape[-1] if output.ndim > 1 else 1
        if self.counts is None or self.model_counts is None:
            classes = units if task == MULTILABEL else max(units, 2)
            # Of how many classes a model chooses, its output does not tell.
            classes = 0 if chosen and task != MULTILABEL else classes
            self.counts, self.model_counts = ClassCounts(classes), ClassCounts(classes)
        if task == MULTILABEL:
            indices = unit_labels(labels, output)
            self.counts.add_units(indices, given, answered)
            if expected is not None:
                self.model_counts.add_units(indices, expected, _are_numbers(reference, expected))
            return
        indices = class_indices(labels, output, self._name, chosen)
        self.counts.add(indices, given, answered)
        if expected is not None:
            self.model_counts.add(indices, expected, _are_numbers(reference, expected))
        if chosen:
            return
        self.calibration.add(confidences(output, self.from_logits), indices == given)


def _are_numbers(output: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return of which answers no unit is NaN."""
    return ~np.isnan(output).reshape(*given.shape, -1).any(axis=-1)


class ClassCounts:
    """Counts labels and answers, over batches.

    An output that is NaN counts as a wrong answer, of no class.

    Args:
        classes: Number of classes; 0 where it is not known, which counts right answers alone.

    Attributes:
        right: How many answers were right.
        total: How many answers were counted.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._labels = np.zeros(classes, np.int64)
        self._answers = np.zeros(classes, np.int64)
        self._right = np.zeros(classes, np.int64)
        self._pairs: np.ndarray | None = None
        if classes <= MOST_CLASSES_IN_CONFUSION:
            self._pairs = np.zeros(classes * classes, np.int64)
        self.right = self.total = 0

    def add(self, labels: np.ndarray, answers: np.ndarray, answered: np.ndarray) -> None:
        """Count one class index a sample or position.

        Args:
            labels: The labels.
            answers: The answers, of the labels' shape.
            answered: Which of them are answers.
        """
        self.total += labels.size
        if not self._classes:
            self.right += int(np.sum((labels == answers) & answered))
            return
        self._labels += np.bincount(labels.ravel(), minlength=self._classes)
        labels, answers = labels[answered], answers[answered]
        right = labels[labels == answers]
        self.right += right.size
        self._answers += np.bincount(answers, minlength=self._classes)
        self._right += np.bincount(right, minlength=self._classes)
        if self._pairs is not None:
            pairs = labels * self._classes + answers
            self._pairs += np.bincount(pairs, minlength=self._classes**2)

    def add_units(self, labels: np.ndarray, answers: np.ndarray, answered: np.ndarray) -> None:
        """Count a 0 or 1 for each unit, from arrays as for `add`, of shape `[..., classes]`."""
        labels, answers, answered = (
            x.reshape(-1, self._classes) for x in (labels, answers, answered)
        )
        self.right += int(np.sum((labels == answers) & answered))
        self.total += labels.size
        self._labels += labels.sum(axis=0)
        self._answers += (answers & answered).sum(axis=0)
        self._right += (labels & answers & answered).sum(axis=0)
        self._pairs = None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, or `None` without any."""
        return self.right / self.total if self.total else None

    def per_class(self) -> list[dict[str, Any]] | None:
        """Return `label`, `samples`, `accuracy` and `precision` of every class."""
        if not self.total or not self._classes or self._classes > MOST_CLASSES:
            return None
        counts = zip(self._labels, self._answers, self._right, strict=True)
        return [
            {
                "label": label,
                "samples": int(samples),
                "accuracy": float(right / samples) if samples else None,
                "precision": float(right / answered) if answered else None,
            }
            for label, (samples, answered, right) in enumerate(counts)
        ]

    def confusion(self) -> list[list[int]] | None:
        """Return the samples by label (row) and answer (column)."""
        if not self.total or not self._classes or self._pairs is None:
            return None
        matrix: list[list[int]] = self._pairs.reshape(self._classes, self._classes).tolist()
        return matrix
