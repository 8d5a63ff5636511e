import numpy as np
import pytest

from keras_kd.losses import ChannelWise, PearsonFeatures


@pytest.mark.parametrize("loss", [ChannelWise(), PearsonFeatures()])
def test_maps_of_other_sides_are_refused_and_not_repeated(loss):
    teacher, student = np.ones((2, 4, 4, 3), "float32"), np.ones((2, 1, 1, 3), "float32")
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*\(2, 1, 1, 3\)"):
        loss(teacher, student)
