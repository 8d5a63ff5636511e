"""How sure a file is of its answers, and whether it is right as often."""

from __future__ import annotations

from typing import Any

import numpy as np

DEFAULT_BINS = 15  # as in the paper


def confidences(output: np.ndarray, from_logits: bool) -> np.ndarray:
    """Return the probability of the most probable class.

    Args:
        output: Logits or probabilities, `[batch, ..., classes]`; of one unit, or of shape
            `[batch]`, those of class 1.
        from_logits: Whether they are logits.

    Returns:
        Numbers between 0 and 1, of shape `[batch, ...]`.
    """
    output = output.astype(np.float64)
    if output.ndim < 2 or output.shape[-1] == 1:
        unit = output if output.ndim < 2 else output[..., 0]
        # The sigmoid of the distance from the threshold, written so that nothing overflows.
        return 1 / (1 + np.exp(-np.abs(unit))) if from_logits else np.maximum(unit, 1 - unit)
    largest = output.max(axis=-1)
    if not from_logits:
        return largest
    return 1 / np.exp(output - largest[..., None]).sum(axis=-1)


class ConfidenceBins:
    """Sums of confidence and of right answers in bins of equal width, over batches.

    The expected calibration error is the mean over all samples of the distance between a bin's
    mean confidence and its accuracy (Guo et al., "On Calibration of Modern Neural Networks", 2017,
    arXiv:1706.04599, equation 3).

    Args:
        bins: Number of bins. Bin `i` holds confidences in `(i / bins, (i + 1) / bins]`.
    """

    def __init__(self, bins: int = DEFAULT_BINS) -> None:
        self._bins = bins
        self._samples = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)
        self._right = np.zeros(bins, np.int64)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Add the confidence of each answer, and whether it is right; NaN is left out."""
        known = ~np.isnan(confidence)
        confidence, right = confidence[known], right[known]
        # A quantized probability may lie a little above 1.
        index = np.clip(np.ceil(confidence * self._bins).astype(int) - 1, 0, self._bins - 1)
        self._samples += np.bincount(index, minlength=self._bins)
        self._confidence += np.bincount(index, weights=confidence, minlength=self._bins)
        self._right += np.bincount(index[right], minlength=self._bins)

    def result(self) -> dict[str, Any] | None:
        """Return `expected_calibration_error` and `bins`, or `None` without samples."""
        total = int(self._samples.sum())
        if not total:
            return None
        error = float(np.abs(self._right - self._confidence).sum() / total)
        bins = [
            {
                "low": i / self._bins,
                "high": (i + 1) / self._bins,
                "samples": int(samples),
                "confidence": float(confidence / samples) if samples else None,
                "accuracy": float(right / samples) if samples else None,
            }
            for i, (samples, confidence, right) in enumerate(
                zip(self._samples, self._confidence, self._right, strict=True)
            )
        ]
        return {"expected_calibration_error": error, "bins": bins}
