"""The code of the guide to temperatures and weights runs."""

import pytest


@pytest.mark.promise
def test_code(run_guide):
    names = run_guide("temperatures_and_weights.md")
    logged = names["history"].history
    assert {"student_loss", "distillation_loss", "kl_divergence", "fit_net_hidden"} <= set(logged)
    assert names["distiller"].distillation_losses == [names["falling"]]
