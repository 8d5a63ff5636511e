from __future__ import annotations

import math

import numpy as np
import pytest

from keras_kd.measuring.differences import Differences


def test_against_numpy() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(3, 2, (20, 5)).astype(np.float32)
    output = reference + generator.normal(0, 0.1, (20, 5)).astype(np.float32)
    sums = Differences()
    sums.add(reference[:3], output[:3])
    sums.add(reference[3:], output[3:])
    r, d = reference.astype(np.float64), output.astype(np.float64) - reference
    assert sums.largest == pytest.approx(np.abs(d).max())
    assert sums.mean == pytest.approx(np.abs(d).mean())
    assert sums.root_mean_square == pytest.approx(np.sqrt((d**2).mean()))
    assert sums.spread == pytest.approx(r.std())
    assert sums.signal_to_noise_db == pytest.approx(10 * np.log10((r**2).sum() / (d**2).sum()))


def test_equal_and_empty() -> None:
    sums = Differences()
    assert (sums.largest, sums.mean, sums.root_mean_square, sums.spread) == (None,) * 4
    assert sums.signal_to_noise_db is None
    sums.add(np.ones(3), np.ones(3))
    assert (sums.largest, sums.signal_to_noise_db) == (0.0, math.inf)


@pytest.mark.parametrize("i", [0, 1])
def test_a_nan_is_the_largest_difference(i: int) -> None:
    sums = Differences()
    outputs = [np.array([np.nan, 1.0]), np.array([1.0, 2.0])]
    for output in (outputs[i], outputs[1 - i]):
        sums.add(np.ones(2), output)
    assert math.isnan(sums.largest or 0.0)


def test_an_infinite_difference_is_all_noise() -> None:
    sums = Differences()
    sums.add(np.ones(2), np.array([np.inf, 1.0]))
    assert (sums.largest, sums.signal_to_noise_db) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("reference", "output", "expected"),
    [
        ([3.0, 5.0], [3.0, 6.0], math.sqrt(0.5)),
        ([2e5, 2e5], [1e5, 2e5], math.sqrt(0.125)),
        ([-0.1, -0.1], [-0.1, -0.1], 0.0),
        ([0.0, 0.0], [1e-8, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 0.1], math.inf),
        ([2e5], [np.inf], math.inf),
    ],
)
def test_the_error_of_a_constant_is_relative_to_its_size(
    reference: list[float], output: list[float], expected: float
) -> None:
    sums = Differences()
    assert sums.relative_error is None
    for _ in range(1000):  # sums of squares round
        sums.add(np.array(reference, np.float32), np.array(output, np.float32))
    assert sums.relative_error == pytest.approx(expected)
