"""The code of the guide runs."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[2] / "docs/guides/caching_the_teacher.md"


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "guide"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), namespace)
    teacher = namespace["teacher"]
    for folder in ("teacher", "top_k", "views", "seeded"):
        assert (tmp_path / "caches" / folder / "manifest.json").is_file()
    for name in ("taught", "views", "still"):
        for given, _ in namespace[name].take(2):
            difference = abs(given.outputs.numpy() - teacher(given.inputs).numpy()).max()
            assert difference < 1e-5
