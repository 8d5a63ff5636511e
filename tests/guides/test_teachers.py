"""The code of the guide to teachers runs."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "teachers.md"


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    assert len(blocks) == 9
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "guide"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"teachers.md, block {number}", "exec"), namespace)
    assert (tmp_path / "chain" / "chain_2.keras").exists()
    assert len(namespace["trained"].models) == 2
    assert namespace["history"]["val_peer_0_accuracy"][-1] > 0.25
