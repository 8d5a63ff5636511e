"""The code of the guide to checking runs, and prints what the guide shows."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "check.md"


def test_python_blocks_run_in_order_and_print_what_is_shown(capsys):
    text = GUIDE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.S | re.M)
    assert len(blocks) == 3
    namespace: dict = {"__name__": "guide"}
    printed = []
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), namespace)
        printed.append(capsys.readouterr().out)
    assert printed[0] == shown
    assert printed[1].startswith("int8 ") and "number of steps" in printed[1]
    assert namespace["found"].operators["int8"]["CONV_2D"] == 2
