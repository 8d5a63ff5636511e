"""The code of the guide to compression runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("compression.md")
    assert names["result"].accuracy > 0.8
    assert names["result"].agreement > 0.9
    assert names["sized"].bytes <= 20_000
