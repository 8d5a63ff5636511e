import numpy as np

from keras_kd.demo.networks import residual_network


def test_shapes_and_names():
    model = residual_network((8, 8, 1), 10, widths=(4, 6), blocks=(1, 2), name="student")
    assert model.output_shape == (None, 10)
    assert model.get_layer("block1_1_out").output.shape == (None, 8, 8, 4)
    assert model.get_layer("block2_2_out").output.shape == (None, 4, 4, 6)
    assert model.name == "student"


def test_ends_in_logits():
    model = residual_network((8, 8, 1), 3, widths=(4,), blocks=(1,), name="student")
    outputs = model(np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")).numpy()
    assert not np.allclose(outputs.sum(-1), 1.0)
