"""The code of the guide to shrinking runs."""

import pathlib
import re

import pytest

GUIDES = pathlib.Path(__file__).parents[2] / "docs" / "guides"


def run(guide, monkeypatch, folder):
    blocks = re.findall(r"^```python\n(.*?)^```", (GUIDES / guide).read_text(), re.S | re.M)
    monkeypatch.chdir(folder)
    namespace = {"__name__": "guide"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{guide}, block {number}", "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_shrinking(monkeypatch, tmp_path):
    names = run("shrinking.md", monkeypatch, tmp_path)
    kd = names["kd"]
    teacher, student = kd.model_cost(names["teacher"]), kd.model_cost(names["student"])
    assert student.flops <= 0.4 * teacher.flops
    assert names["plan"].apply().get_layer("stem").filters == 24
    metrics = names["compressed"].evaluate(names["val"])
    assert metrics["accuracy"] > 0.8
    assert names["compressed"].count_params() < student.parameters
