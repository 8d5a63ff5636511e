"""The code of the guide to teachers runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide, tmp_path):
    names = run_guide("teachers.md")
    assert (tmp_path / "chain" / "chain_2.keras").exists()
    assert len(names["trained"].models) == 2
    assert names["history"]["val_peer_0_accuracy"][-1] > 0.25
