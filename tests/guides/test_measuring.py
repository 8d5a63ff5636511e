"""The code of the guide to measuring runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide, capsys):
    names = run_guide("measuring.md")
    result = names["result"]
    assert result.accuracy > 0.8 and result.agreement > 0.95
    assert result.metrics["top_2"] >= result.accuracy
    assert result.macs == names["kd"].model_cost(names["student"]).macs
    assert result.operator_types["CONV_2D"] == {"INT8": 2}
    printed = capsys.readouterr().out
    assert "The error grows most in 'body'" in printed and "stem + " in printed
