"""The code of the guide to pruning runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("pruning.md")
    assert names["history"].history["sparsity"][-1] > 0.7
    body = names["student"].get_layer("body").get_weights()[0]
    assert ((body.reshape(9, 2, 4, 8) == 0).sum(2) == 2).all()
    sparsities = {layer.name: layer.sparsity for layer in names["compressed"].layers}
    assert sparsities["stem"] == 0.0
    assert sparsities["hidden"] <= 0.95
