"""The code of the guide to shrinking runs."""

import pytest


@pytest.mark.slow
def test_code(run_guide):
    names = run_guide("shrinking.md")
    kd = names["kd"]
    teacher, student = kd.model_cost(names["teacher"]), kd.model_cost(names["student"])
    assert student.flops <= 0.4 * teacher.flops
    assert names["plan"].apply().get_layer("stem").filters == 24
    metrics = names["compressed"].evaluate(names["val"])
    assert metrics["accuracy"] > 0.8
    assert names["compressed"].count_params() < student.parameters
