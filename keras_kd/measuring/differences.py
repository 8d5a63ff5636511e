"""How far two arrays of outputs are apart, over batches."""

from __future__ import annotations

import math

import numpy as np

# A spread that is a smaller part of the numbers' size is the rounding of float32.
_ROUNDING = 1e-6


class Differences:
    """Sums over batches of what differs between reference outputs and a file's.

    Attributes:
        largest: Largest absolute difference, or `None` before the first batch.
    """

    def __init__(self) -> None:
        self._count = 0
        self._absolute = self._squared = self._signal = 0.0
        self._sum = 0.0
        self.largest: float | None = None

    def add(self, reference: np.ndarray, output: np.ndarray) -> None:
        """Add two arrays of one shape."""
        reference = reference.astype(np.float64)
        difference = output - reference
        self._count += difference.size
        self._absolute += float(np.abs(difference).sum())
        self._squared += float(np.square(difference).sum())
        self._signal += float(np.square(reference).sum())
        self._sum += float(reference.sum())
        if difference.size:
            # Python's `max` would pass over a NaN.
            self.largest = float(np.maximum(self.largest or 0.0, np.abs(difference).max()))

    @property
    def mean(self) -> float | None:
        """Mean absolute difference."""
        return self._absolute / self._count if self._count else None

    @property
    def root_mean_square(self) -> float | None:
        """Root of the mean squared difference."""
        return math.sqrt(self._squared / self._count) if self._count else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the reference."""
        if not self._count:
            return None
        mean = self._sum / self._count
        return math.sqrt(max(self._signal / self._count - mean * mean, 0.0))

    @property
    def relative_error(self) -> float | None:
        """Root of the mean squared difference by the reference's spread; `None` of nothing.

        By the root of its mean square where the reference is constant. Where all of it is 0, the
        error is 0 if the difference is the rounding of float32, and else infinite.
        """
        error, spread = self.root_mean_square, self.spread
        if error is None or spread is None:
            return None
        size = math.sqrt(self._signal / self._count)
        if spread > _ROUNDING * size:
            return error / spread
        if size:
            return error / size
        return error if math.isnan(error) else 0.0 if error <= _ROUNDING else math.inf

    @property
    def signal_to_noise_db(self) -> float | None:
        """Signal-to-noise ratio in decibels: `10 log10(sum(reference²) / sum(difference²))`.

        Infinite where nothing differs, and minus infinity where the difference is infinite.
        """
        if not self._count:
            return None
        if not self._squared:
            return math.inf
        ratio = self._signal / self._squared
        return 10 * math.log10(ratio) if ratio else -math.inf
