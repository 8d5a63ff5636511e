import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.cli.preprocessing import Preprocessing, begins_with_scaling, resolve_preprocessing

GREY = np.arange(24, dtype="uint8").reshape(4, 6, 1)


def test_scale_and_offset():
    image, label = Preprocessing(127.5, -1.0, (4, 6, 1))(GREY, 3)
    np.testing.assert_allclose(image, GREY.astype("float64") / 127.5 - 1, atol=1e-6)
    assert label == 3


def test_colors_and_size_become_those_of_the_input():
    image, _ = Preprocessing(1.0, 0.0, (4, 6, 3))(GREY, 0)
    assert (np.asarray(image) == np.repeat(GREY, 3, -1)).all()
    color = np.zeros((4, 6, 3), "uint8") + np.array([200, 100, 50], "uint8")
    image, _ = Preprocessing(1.0, 0.0, (4, 6, 1))(color, 0)
    np.testing.assert_allclose(image, 0.2989 * 200 + 0.587 * 100 + 0.114 * 50, rtol=1e-3)
    image, _ = Preprocessing(1.0, 0.0, (2, 3, 1))(GREY, 0)
    expected = GREY.reshape(2, 2, 3, 2, 1).mean((1, 3))  # bilinear at half the size is the mean
    np.testing.assert_allclose(image, expected, atol=1e-4)


def test_arrays_without_channels_get_one():
    image, _ = Preprocessing(1.0, 0.0, (4, 6, 1))(GREY[..., 0], 0)
    assert (np.asarray(image) == GREY).all()


def test_in_a_dataset():
    dataset = tf.data.Dataset.from_tensors((GREY, 1)).map(Preprocessing(255.0, 0.0, (8, 8, 3)))
    assert dataset.element_spec[0].shape == (8, 8, 3)


def test_it_says_itself():
    assert str(Preprocessing(127.5, -1.0, (8, 8, 3))) == "8×8×3, pixel / 127.5 − 1"
    assert str(Preprocessing(1.0, 0.0, (8, 8, 3))) == "8×8×3, pixel"


def model(*layers):
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


def test_given_stored_or_evident():
    shape = (4, 4, 1)
    plain = model(keras.layers.Flatten())
    scaling = model(keras.layers.Rescaling(1 / 255), keras.layers.Flatten())
    stored = Preprocessing(127.5, -1.0, shape).to_dict()
    assert resolve_preprocessing(shape, 255.0, None, None, plain, True).scale == 255.0
    found = resolve_preprocessing(shape, None, None, stored, plain, True)
    assert (found.scale, found.offset) == (127.5, -1.0)
    assert resolve_preprocessing(shape, 127.5, -1.0, stored, plain, True) == found
    assert resolve_preprocessing(shape, None, None, None, scaling, True).scale == 1.0
    assert resolve_preprocessing(shape, None, None, None, plain, False).scale == 1.0


def test_what_is_ambiguous_is_refused():
    shape = (4, 4, 1)
    plain = model(keras.layers.Flatten())
    with pytest.raises(ValueError, match=r"Add --scale 255 if it was trained on 0..1"):
        resolve_preprocessing(shape, None, None, None, plain, True)
    stored = Preprocessing(255.0, 0.0, shape).to_dict()
    with pytest.raises(ValueError, match="trained with --scale 255 --offset 0: leave both out"):
        resolve_preprocessing(shape, 1.0, None, stored, plain, True)


def test_scaling_inside_a_backbone_is_seen():
    backbone = model(keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(1, 1))
    assert begins_with_scaling(model(backbone, keras.layers.Flatten()))
    assert not begins_with_scaling(model(keras.layers.Flatten()))
