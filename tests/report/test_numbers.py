from __future__ import annotations

import pytest

from keras_kd.report import numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (58_240, "58.2 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (5_000_000, "5.00 MB"),
        (2_340_000_000, "2.34 GB"),
        (None, "–"),
    ],
)
def test_bytes(count, text):
    assert numbers.bytes_text(count) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.01, "1/100"),
        (1 / 110, "1/110"),
        (1 / 25.5, "1/25.5"),
        (0.04, "1/25"),
        (0.3, "1/3.33"),
        (0.83, "0.83×"),
        (1.0, "1.00×"),
        (0.0, "0.00×"),
        (None, "–"),
    ],
)
def test_ratio(ratio, text):
    assert numbers.ratio_text(ratio) == text


@pytest.mark.parametrize(
    ("drop", "text"),
    [(0.6, "−0.60"), (-0.25, "+0.25"), (0.001, "0.00"), (-0.001, "0.00"), (None, "–")],
)
def test_change(drop, text):
    assert numbers.change_text(drop) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.05231, "0.0523"), (1.2749, "1.27"), (31.04, "31.0"), (310.4, "310")]
)
def test_milliseconds(value, text):
    assert numbers.milliseconds_text(value) == text


def test_accuracy_and_counts():
    assert numbers.accuracy_text(0.93123, None) == "93.12 %"
    assert numbers.accuracy_text(0.93123, 0.002) == "93.12 ± 0.20 %"
    assert numbers.accuracy_text(None, None) == "–"
    assert numbers.percent_text(0.9931) == "99.3 %"
    assert numbers.percent_text(0.99314, 2) == "99.31 %"
    assert numbers.signed_points_text(-1.5) == "−1.50"
    assert numbers.signed_points_text(0.25) == "+0.25"
    assert numbers.count_text(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (True, "yes"),
        (None, "none"),
        ([], "none"),
        ([[32, 64], [1]], "[32, 64], [1]"),
        (
            {"stages": ["prune(0.5, epochs=4)", "int8"], "cache": False, "within": {"a": 1}},
            "stages = prune(0.5, epochs=4), int8; cache = no; within = [a = 1]",
        ),
    ],
)
def test_settings(value, text):
    assert numbers.setting_text(value) == text
