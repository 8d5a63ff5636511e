from __future__ import annotations

import pytest

from keras_kd.system.names import snake_case


@pytest.mark.parametrize(
    ("name", "expected"),
    [("KLDivergence", "kl_divergence"), ("RKDAngle", "rkd_angle"), ("DKD", "dkd")],
)
def test_names_in_snake_case(name, expected):
    assert snake_case(name) == expected
