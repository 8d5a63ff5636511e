from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import pytest

import keras_kd.datasets
from keras_kd.datasets import fashion_scenes
from keras_kd.datasets.fashion_scenes import FashionScenes, compose

SOURCE = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
with_fashion_mnist = pytest.mark.skipif(
    not (SOURCE / "fashion_mnist").is_dir(), reason="fashion_mnist is absent"
)


@pytest.fixture(scope="module")
def few_scenes():
    """A dataset of few scenes takes seconds less, and is otherwise the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_scenes, "SCENES", {"train": 60, "test": 40})
        patch.setattr(fashion_scenes, "_SOURCES", {"train": "train[:1000]", "test": "test[:1000]"})
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, few_scenes):
    """The examples of both splits, in a folder of their own: fashion_mnist is found elsewhere."""
    folder = tmp_path_factory.mktemp("tfds")
    splits = keras_kd.datasets.load("fashion_scenes", split=["train", "test"], data_dir=folder)
    assert [path.name for path in folder.iterdir() if path.name != "downloads"] == [
        "fashion_scenes"
    ]
    return [list(split.as_numpy_iterator()) for split in splits]


def full_box(visible):
    rows, columns = np.where(visible)
    return np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / 64


@with_fashion_mnist
def test_features(scenes, tmp_path):
    assert [len(split) for split in scenes] == [60, 40]
    for example in scenes[0] + scenes[1]:
        assert example["image"].shape == example["segmentation_mask"].shape == (64, 64, 1)
        assert example["image"].dtype == example["segmentation_mask"].dtype == np.uint8
        assert 2 <= len(example["objects"]["label"]) <= 4
        assert example["objects"]["bbox"].shape == (len(example["objects"]["label"]), 4)
    builder = FashionScenes(data_dir=tmp_path)
    assert builder.info.features["objects"]["label"].int2str(7) == "Sneaker"
    assert "Xiao" in builder.info.citation


@with_fashion_mnist
def test_class_names_are_those_of_the_source():
    import tensorflow_datasets as tfds

    source = tfds.builder("fashion_mnist").info.features["label"]
    assert tuple(source.names) == fashion_scenes.LABELS


@with_fashion_mnist
def test_masks_boxes_and_labels_agree(scenes):
    checked = 0
    for example in scenes[0] + scenes[1]:
        mask = example["segmentation_mask"][..., 0]
        labels, boxes = example["objects"]["label"], example["objects"]["bbox"]
        assert set(np.unique(mask)) - {0} == set(labels + 1)
        inside = np.zeros((64, 64), bool)
        for label, box in zip(labels, boxes, strict=True):
            top, left, bottom, right = (64 * box).astype(int)
            assert (mask[top:bottom, left:right] == label + 1).sum() >= 0.75 * 40
            inside[top:bottom, left:right] = True
            if (labels == label).sum() == 1:  # then its pixels are all pixels of the class
                np.testing.assert_array_equal(box, full_box(mask == label + 1))
                checked += 1
        assert not mask[~inside].any()
    assert checked > 150


@with_fashion_mnist
def test_the_same_bytes_each_time(scenes, few_scenes, tmp_path):
    again = keras_kd.datasets.load("fashion_scenes", split="test", data_dir=tmp_path)
    for first, second in zip(scenes[1], again.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["segmentation_mask"], second["segmentation_mask"])
        np.testing.assert_array_equal(first["objects"]["bbox"], second["objects"]["bbox"])


@with_fashion_mnist
def test_fashion_mnist_of_the_same_folder_comes_first(few_scenes, tmp_path):
    shutil.copytree(SOURCE / "fashion_mnist", tmp_path / "fashion_mnist")
    builder = FashionScenes(data_dir=tmp_path)
    shutil.rmtree(tmp_path / "fashion_mnist")
    without = builder._source("test")
    shutil.copytree(SOURCE / "fashion_mnist", tmp_path / "fashion_mnist")
    for shard in tmp_path.glob("fashion_mnist/*/*-test.tfrecord*"):
        shutil.copy(next(shard.parent.glob("*-train.tfrecord*")), shard)
    tampered = builder._source("test")
    assert not np.array_equal(without[0], tampered[0])


@with_fashion_mnist
def test_preparing_is_silent(few_scenes, tmp_path, capfd):
    keras_kd.datasets.load("fashion_scenes", split="test", data_dir=tmp_path)
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def squares(grays, examples=600):
    """Sources that a test can recognize: images of one gray, which no resizing changes."""
    images = np.zeros((examples, 28, 28), np.uint8)
    images[:] = np.broadcast_to(grays, examples)[:, None, None]
    return images, np.arange(examples) % 10


def garment_pixels(example):
    return example["image"][example["segmentation_mask"] > 0]


def test_splits_come_from_different_images(few_scenes, tmp_path, monkeypatch):
    def load(name, *, split, **kwargs):
        assert name == "fashion_mnist"
        images, labels = squares({"train": 100, "test": 200}[split.partition("[")[0]])
        return images[..., None], labels

    monkeypatch.setattr("keras_kd.datasets.loading.load", load)
    for split, gray, scenes in (("train", 100, 60), ("test", 200, 40)):
        examples = [e for _, e in FashionScenes(data_dir=tmp_path)._generate_examples(split)]
        assert len(examples) == scenes
        assert all(np.all(garment_pixels(example) == gray) for example in examples)


def test_no_image_is_used_twice():
    images, labels = squares(np.arange(64, 256), examples=192)
    examples = list(compose(images, labels, scenes=40, seed=3))
    grays = np.concatenate([np.unique(garment_pixels(example)) for example in examples])
    assert len(grays) == sum(len(example["objects"]) for example in examples)
    assert len(set(grays)) == len(grays)
    for example in examples:
        for gray in np.unique(garment_pixels(example)):
            classes = np.unique(example["segmentation_mask"][example["image"] == gray])
            assert classes == labels[gray - 64] + 1
        assert example["image"][example["segmentation_mask"] == 0].max() <= 63


def test_sizes_and_coverings_are_as_said():
    images, labels = squares(200)
    labels = np.arange(len(labels)) % 3
    sides, shown = [], []
    for example in compose(images, labels, scenes=100, seed=0):
        areas = np.bincount(example["segmentation_mask"].ravel(), minlength=4)[1:]
        of_class = [thing["label"] for thing in example["objects"]]
        for thing in example["objects"]:
            box = thing["bbox"]
            height, width = 64 * (box.ymax - box.ymin), 64 * (box.xmax - box.xmin)
            sides.append(max(height, width))
            if of_class.count(thing["label"]) == 1:
                shown.append(areas[thing["label"]] / max(height, width) ** 2)
    assert min(sides) >= 0.75 * 17 and max(sides) == 34
    assert len(set(sides)) > 15
    assert 0.75 <= min(shown) < 0.8 and max(shown) == 1


def test_absent_source_is_named(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def absent(name, **kwargs):
        if name == "fashion_scenes":
            return builder_of_scenes(name, **kwargs)
        raise AssertionError(f"Dataset {name}: could not find data in {kwargs['data_dir']}.")

    builder_of_scenes = tfds.load
    monkeypatch.setattr(tfds, "load", absent)
    with pytest.raises(FileNotFoundError, match="The dataset 'fashion_mnist' is not in"):
        keras_kd.datasets.load("fashion_scenes", split="test", data_dir=tmp_path)
