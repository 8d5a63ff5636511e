import pytest

from keras_kd.compression.shrinking.options import ShrinkOptions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is nothing to remove"),
        ({"ratio": 50}, "ratio=50. It is .* ratio=0.5"),
        ({"ratio": 1.0}, "at least 0 and below 1"),
        ({"ratio": "half"}, "fraction of the channels"),
        ({"flops_ratio": -0.1}, "fraction of the FLOPs"),
        ({"depth": 1}, "fraction of the blocks"),
        ({"max_flops": 0}, "`max_flops` must be a number above 0"),
        ({"max_parameters": True}, "`max_parameters` must be a number above 0"),
        ({"ratio": 0.5, "max_flops": 1e6}, "`ratio` says .* `max_flops`"),
        ({"max_flops": 1e6, "flops_ratio": 0.5}, "`max_flops` and `flops_ratio`"),
        ({"ratio": 0.5, "importance": "l2"}, '"l1", "batch_norm", "taylor", but received \'l2\''),
        ({"ratio": 0.5, "scope": "local"}, '"uniform", "global"'),
        ({"ratio": 0.5, "reduction": "max"}, '"mean", "sum"'),
        ({"ratio": 0.5, "min_channels": 0}, "`min_channels` must be a whole number"),
        ({"ratio": 0.5, "batches": 1.5}, "`batches` must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShrinkOptions(**arguments)


def test_layers_of_the_wrong_kind():
    with pytest.raises(TypeError, match="Shrink: `layers` must be the name of a layer"):
        ShrinkOptions(0.5, layers=3)
