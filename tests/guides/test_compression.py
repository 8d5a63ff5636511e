"""The code of the guide to compression runs."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "compression.md"


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "guide"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), namespace)
    assert namespace["result"].accuracy > 0.8
    assert namespace["result"].agreement > 0.9
