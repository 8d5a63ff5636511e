"""The tour runs."""

import pytest


@pytest.mark.promise
def test_tour(run_guide, tmp_path):
    names = run_guide("../tour.md")
    files = names["files"]
    assert files["float32"].accuracy > 0.85
    assert files["int8"].agreement > 0.95
    assert files["int8"].zipped_bytes < files["float32"].zipped_bytes / 2
    for layer in names["compressed"].layers:
        if layer.name in ("block1", "block2", "logits"):
            assert (layer.sparsity >= 0.45, layer.clusters <= 16, layer.bits) == (True, True, 8)
    assert names["smaller"].count_params() < names["teacher"].count_params()
    for written in ("exports/report.html", "exports/MODEL_CARD.md", "firmware/digits_model.cc"):
        assert (tmp_path / written).stat().st_size
