"""The code of the guide to checking runs, and prints what the guide shows."""

import pathlib
import re

import pytest

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "check.md"


@pytest.mark.promise
def test_code(run_guide, capsys):
    (shown,) = re.findall(r"^```text\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    names = run_guide("check.md")
    printed = capsys.readouterr().out
    assert printed.startswith(shown)
    assert printed[len(shown) :].startswith("int8 ") and "number of steps" in printed
    assert names["found"].operators["int8"]["CONV_2D"] == 2
