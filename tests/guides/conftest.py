"""Running the code of a guide as it stands there."""

from __future__ import annotations

import pathlib
import re

import pytest

GUIDES = pathlib.Path(__file__).parents[2] / "docs" / "guides"


@pytest.fixture
def run_guide(tmp_path, monkeypatch):
    """Run the blocks of a guide in order, in an empty folder, and return what they define.

    Keyword arguments are names that the blocks find defined.
    """

    def run(name, **given):
        blocks = re.findall(r"^```python\n(.*?)^```", (GUIDES / name).read_text(), re.S | re.M)
        assert blocks
        monkeypatch.chdir(tmp_path)
        namespace = {"__name__": "guide", **given}
        for number, block in enumerate(blocks, start=1):
            exec(compile(block, f"{name}, block {number}", "exec"), namespace)
        return namespace

    return run
