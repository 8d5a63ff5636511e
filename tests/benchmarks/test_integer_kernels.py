"""How integer kernels round: the kept table, and the arithmetic that it is measured against."""

import json
import pathlib
import types

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_the_guide_quotes_the_kept_results(load_script):
    benchmark = load_script("benchmarks/integer_kernels.py")
    kept = json.loads((ROOT / "exports/reference/integer_kernels.json").read_text())
    assert benchmark.table(kept) in (ROOT / "docs/measured/coverage.md").read_text()
    assert set(kept) == set(benchmark.KERNELS)
    assert all(found["farthest"] < 0.6 for rows in kept.values() for found in rows.values())


@pytest.mark.parametrize(
    "name, options, inputs, expected",
    [
        ("ADD", {}, ([1.0], [2.0]), [3.0]),
        ("HARD_SWISH", {}, ([1.0, -4.0, 4.0],), [4.0 / 6.0, 0.0, 4.0]),
        ("BATCH_MATMUL", {"adjX": False, "adjY": True}, ([[1.0, 2.0]], [[3.0, 4.0]]), [[11.0]]),
        ("FULLY_CONNECTED", {}, ([[1.0, 2.0]], [[3.0, 4.0]], [0.5]), [[11.5]]),
        ("QUANTIZE", {}, ([1.5],), [1.5]),
    ],
)
def test_what_is_compared_with(load_script, name, options, inputs, expected):
    benchmark = load_script("benchmarks/integer_kernels.py")
    operator = types.SimpleNamespace(name=name, options=types.SimpleNamespace(**options))
    given = [np.asarray(x) for x in inputs]
    np.testing.assert_allclose(benchmark.exact(operator, given, None), expected)
    other = types.SimpleNamespace(name="SOFTMAX", options=None)
    assert benchmark.exact(other, given, None) is None
