"""The code of the guide to pruning runs."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "pruning.md"


def test_python_blocks_run_in_order():
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    assert len(blocks) == 4
    namespace: dict = {"__name__": "guide"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"pruning.md, block {number}", "exec"), namespace)
    assert namespace["history"].history["sparsity"][-1] > 0.7
    body = namespace["student"].get_layer("body").get_weights()[0]
    assert ((body.reshape(9, 2, 4, 8) == 0).sum(2) == 2).all()
    sparsities = {layer.name: layer.sparsity for layer in namespace["compressed"].layers}
    assert sparsities["stem"] == 0.0
    assert sparsities["hidden"] <= 0.95
