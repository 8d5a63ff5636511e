import numpy as np
import pytest

from keras_kd.export.micro.arena import activation_bytes, pack
from keras_kd.litert.model_file import Graph, Operator, Tensor


@pytest.mark.parametrize(
    ("requests", "height"),
    [
        ([], 0),
        ([(16, 0, 1), (32, 1, 2)], 48),  # both live at step 1
        ([(16, 0, 1), (32, 2, 3)], 32),  # one after the other
        ([(100, 0, 1), (50, 1, 2), (100, 2, 3)], 150),
        # The gap under a later tensor is used: 64 at 0, 32 at 64 while both live, 16 at 0.
        ([(64, 0, 1), (32, 1, 3), (16, 2, 3)], 96),
    ],
)
def test_tensors_that_do_not_live_together_share_memory(requests, height):
    assert pack(requests) == height


def tensor(size, constant=False, variable=False):
    data = np.zeros(size, np.uint8) if constant else None
    return Tensor("t", "INT8", (size,), (size,), data=data, variable=variable)


def test_a_residual_is_kept_until_it_is_added():
    tensors = (*map(tensor, (16, 160, 160, 320, 16)), tensor(999, constant=True))
    nodes = (
        Operator("CONV_2D", False, (0, 5), (1,)),
        Operator("CONV_2D", False, (1, 5), (2,)),
        Operator("CONCATENATION", False, (1, 2), (3,)),
        Operator("MEAN", False, (3,), (4,)),
    )
    chain = Graph(tensors, nodes, (0,), (4,))
    assert activation_bytes(chain) == 160 + 160 + 320
