from __future__ import annotations

import numpy as np
import pytest

import keras_kd.datasets


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    (train, test), info = tfds.load(  # TFDS itself: importing keras_kd.datasets registered it
        "digits",
        split=["train", "test"],
        data_dir=folder,
        batch_size=-1,
        as_supervised=True,
        with_info=True,
    )
    as_arrays = [tuple(np.asarray(part) for part in split) for split in (train, test)]
    return as_arrays[0], as_arrays[1], info


def test_shapes_and_types(digits):
    (train_images, train_labels), (test_images, test_labels), info = digits
    assert train_images.shape == (1287, 8, 8, 1) and train_images.dtype == np.uint8
    assert test_images.shape == (510, 8, 8, 1) and test_images.dtype == np.uint8
    assert train_labels.shape == (1287,) and test_labels.shape == (510,)
    assert info.features["label"].num_classes == 10
    assert "Alpaydin" in info.citation


def test_equals_the_source_in_order(digits):
    from sklearn.datasets import load_digits

    (train_images, train_labels), (test_images, test_labels), _ = digits
    images = np.concatenate([train_images, test_images])[..., 0]
    source = load_digits()
    np.testing.assert_array_equal(np.concatenate([train_labels, test_labels]), source.target)
    # The source's 0..16 is 0..255 here, 16 becoming 255 and everything else times 16.
    expected = source.images * 16
    expected[expected == 256] = 255
    np.testing.assert_array_equal(images, expected)
    assert images.max() == 255 and images.min() == 0


def test_the_first_image(digits):
    (train_images, train_labels), _, _ = digits
    assert train_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    # Row 1 of the first image of the source: 0 0 13 15 10 15 5 0.
    assert train_images[0, 1, :, 0].tolist() == [0, 0, 208, 240, 160, 240, 80, 0]


def test_the_split_falls_between_two_runs(digits):
    (_, train_labels), (_, test_labels), _ = digits
    # Every run begins with the digits in order, three times.
    assert test_labels[:30].tolist() == list(range(10)) * 3
    for labels in (train_labels, test_labels):
        assert np.bincount(labels, minlength=10).min() >= 45


def test_load_prepares_silently(tmp_path, capfd):
    dataset = keras_kd.datasets.load(
        "digits", split="test[:7]", data_dir=tmp_path, as_supervised=True
    )
    assert len(list(dataset)) == 7
    out, err = capfd.readouterr()
    assert out == "" and err == ""
