"""The memory that `chunk_size` promises, measured in processes of their own."""

import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_chunks_need_little_more_than_the_gradient(load_script):
    benchmark = load_script("benchmarks/bench_large_vocabulary.py")
    positions, classes = 64, 250_000
    logits = positions * classes * 4 / 2**20
    # What the docstring of KLDivergence states.
    bound = logits + 32 * (benchmark.CHUNK_ELEMENTS // classes) * classes / 2**20
    chunks = benchmark.measured("chunks", positions, classes)
    whole = benchmark.measured("whole", positions, classes)
    assert logits * 0.9 < chunks["memory_mb"] < bound
    assert whole["memory_mb"] > 2 * logits
    assert chunks["loss"] == pytest.approx(whole["loss"], rel=1e-6)
