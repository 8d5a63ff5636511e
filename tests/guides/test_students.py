"""The code of the guide to students runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide):
    costs = run_guide("students.md")["costs"]
    small, wide, deep = (costs[key] for key in [(8, 1), (16, 1), (16, 3)])
    assert small[0] < wide[0] < deep[0]
    assert small[1] < wide[1] < deep[1]
