"""Right and wrong answers, by class."""

from __future__ import annotations

from typing import Any

import numpy as np

# Lists of this length are still read by somebody; files for them stay below some megabytes.
MOST_CLASSES = 1000
MOST_CLASSES_IN_CONFUSION = 200


class ClassCounts:
    """Counts labels and answers, over batches.

    Args:
        classes: Number of classes.

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

    def add(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Count one class index a sample or position, from labels and answers of one shape."""
        labels, answers = labels.ravel(), answers.ravel()
        right = labels[labels == answers]
        self.right += right.size
        self.total += labels.size
        self._labels += np.bincount(labels, minlength=self._classes)
        self._answers += np.bincount(answers, minlength=self._classes)
        self._right += np.bincount(right, minlength=self._classes)
        if self._pairs is not None:
            pairs = labels * self._classes + answers
            self._pairs += np.bincount(pairs, minlength=self._classes**2)

    def add_units(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Count a 0 or 1 for each unit, from labels and answers of shape `[..., classes]`."""
        labels, answers = (x.reshape(-1, self._classes) for x in (labels, answers))
        self.right += int(np.sum(labels == answers))
        self.total += labels.size
        self._labels += labels.sum(axis=0)
        self._answers += answers.sum(axis=0)
        self._right += (labels & answers).sum(axis=0)
        self._pairs = None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, or `None` without any."""
        return self.right / self.total if self.total else None

    def per_class(self) -> list[dict[str, Any]] | None:
        """Return `label`, `samples`, `accuracy` and `precision` of every class."""
        if not self.total or self._classes > MOST_CLASSES:
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
        if not self.total or self._pairs is None:
            return None
        matrix: list[list[int]] = self._pairs.reshape(self._classes, self._classes).tolist()
        return matrix
