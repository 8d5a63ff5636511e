from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from keras_kd.measuring.confidence import ConfidenceBins, confidences


def test_confidences() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 4, 3)).astype(np.float32)
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(confidences(logits, True), probabilities.max(-1), rtol=1e-6)
    np.testing.assert_allclose(confidences(probabilities, False), probabilities.max(-1))
    unit = logits[..., :1].astype(np.float64)
    expected = np.maximum(expit(unit), 1 - expit(unit))[..., 0]
    np.testing.assert_allclose(confidences(unit, True), expected)
    np.testing.assert_allclose(confidences(expit(unit), False), expected)
    np.testing.assert_allclose(confidences(np.array([1e4, -1e4]), True), [1, 1])


def by_hand(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Equation 3 of the paper, read literally: one bin after the other."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error(bins: int) -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, 500)
    right = generator.random(500) < confidence**2
    sums = ConfidenceBins(bins)
    sums.add(confidence[:100].reshape(4, 25), right[:100].reshape(4, 25))
    sums.add(confidence[100:], right[100:])
    result = json.loads(json.dumps(sums.result()))
    expected = by_hand(confidence, right, bins)
    assert result["expected_calibration_error"] == pytest.approx(expected)
    assert sum(b["samples"] for b in result["bins"]) == 500
    last = confidence > (bins - 1) / bins
    assert result["bins"][-1]["confidence"] == pytest.approx(confidence[last].mean())
    assert result["bins"][-1]["accuracy"] == pytest.approx(right[last].mean())
    if bins > 5:
        assert result["bins"][0]["confidence"] is None


def test_edges_belong_to_the_bin_below() -> None:
    sums = ConfidenceBins(4)
    sums.add(np.array([0.25, 0.5, 1.0, 1.004, 0.0]), np.ones(5, bool))
    assert [b["samples"] for b in sums.result()["bins"]] == [2, 1, 0, 2]


def test_nan_and_nothing() -> None:
    sums = ConfidenceBins()
    sums.add(np.array([np.nan]), np.array([True]))
    assert sums.result() is None
