import math

import pytest


def test_area(load_script):
    area = load_script("benchmarks/search_digits.py").area
    assert area([(100, 0.5)], 1000) == pytest.approx(0.5)
    assert area([(1000, 0.9), (100, 0.5)], 10_000) == pytest.approx(0.5 + 0.9)
    # A file that is larger and no better adds nothing, nor does one as large as the teacher.
    assert area([(100, 0.5), (300, 0.4), (1000, 1.0)], 1000) == pytest.approx(0.5)
    assert area([(50, 0.2), (100, 0.5)], 1000) == pytest.approx(0.2 * math.log10(2) + 0.5)


def test_table(load_script):
    script = load_script("benchmarks/search_digits.py")
    value = {"files": 20, "best": 0.9, "hypervolume": 1.0}
    text = script.table({"kd.search": {0: value, 1: {**value, "hypervolume": 1.2}}})
    assert "| kd.search | 20 ± 0 | 90.00 ± 0.00 | 1.100 ± 0.141 |" in text
