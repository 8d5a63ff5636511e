"""The code of the guide to compression runs."""

import pytest


def check(names):
    assert names["result"].accuracy > 0.8
    assert names["result"].agreement > 0.9


def test_code(run_guide):
    check(run_guide("compression.md", without="compress_to_size"))


@pytest.mark.slow
def test_all_code(run_guide):
    names = run_guide("compression.md")
    check(names)
    assert names["sized"].bytes <= 20_000
