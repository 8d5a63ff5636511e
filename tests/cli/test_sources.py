import shutil

import keras
import numpy as np
import pytest

from keras_kd.cli.sources import open_source


def values(source, indices, channels=1):
    pairs = list(source.select(np.asarray(indices), channels))
    return [np.asarray(x) for x, _ in pairs], [int(y) for _, y in pairs]


def test_folder_of_images(work):
    source = open_source("pictures")
    assert source.class_names == ["cat", "dog", "fish"]
    assert source.count == 30
    assert source.integers
    images, labels = values(source, [0, 29, 11])
    assert labels == [0, 2, 1]
    path = sorted((work / "pictures/cat").iterdir())[0]
    expected = keras.utils.img_to_array(keras.utils.load_img(path, "grayscale"))
    assert (images[0] == expected).all()
    assert images[0].dtype == "uint8"
    color, _ = values(source, [0], channels=3)
    assert color[0].shape == (8, 8, 3)


def test_hidden_copies_are_left_out_and_other_files_are_told(work):
    pictures = work / "own"
    shutil.copytree(work / "pictures", pictures)
    copies = pictures / "cat" / ".ipynb_checkpoints"
    copies.mkdir()
    one = sorted((pictures / "cat").glob("*.png"))[0]
    (copies / one.name).write_bytes(one.read_bytes())
    for name in ("a.webp", "b.WEBP", "notes.txt"):
        (pictures / "dog" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"3 files .* are not read \(\.txt, \.webp\).*a\.webp"):
        source = open_source("own")
    assert source.count == 30 and len(source.labels) == 30


def test_npz(tmp_path):
    x = np.arange(12, dtype="float32").reshape(3, 4)
    path = tmp_path / "a.npz"
    for y in (np.array([0, 2, 1]), np.array([[0], [2], [1]]), np.eye(3)[[0, 2, 1]]):
        np.savez(path, x=x, y=y)
        source = open_source(str(path))
        inputs, labels = values(source, [2, 1])
        assert labels == [1, 2]
        assert (inputs[0] == x[2]).all()
        assert not source.integers
        assert source.class_names is None


def test_tfds_names_and_splits():
    source = open_source("digits")
    whole = source.count
    assert source.split == "train"
    assert source.class_names == [str(digit) for digit in range(10)]
    assert open_source("digits", "test").split == "test"
    assert open_source("digits", "validation").split == "train"
    half = open_source("digits:train[:50%]")
    assert half.count == round(whole / 2)
    images, labels = values(half, [5, 3])
    all_images, all_labels = values(source, [3, 5])
    assert labels == all_labels  # in the order of the dataset
    assert (images[1] == all_images[1]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent/folder!", "There is no folder and no .npz file 'absent/folder!'. Give a folder"),
        ("absent.npz", "There is no file 'absent.npz'"),
        ("digit", "no folder, .npz file or TFDS dataset 'digit'. Did you mean 'digits'"),
        ("fashion_mnst:train", "'fashion_mnst:train'. Did you mean 'fashion_mnist'"),
        *((name, f"dataset '{name}'. Give a folder") for name in ("nopics", "photos", "my_cats")),
    ],
)
def test_what_is_not_there(work, text, message):
    with pytest.raises(FileNotFoundError, match=message) as caught:
        open_source(text)
    assert str(caught.value).count(f"'{text}'") == 1


def test_folders_that_are_no_classes_are_refused(work):
    (work / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty' has no subfolders"):
        open_source("empty")
    for name in ("train", "val"):
        (work / "parts" / name / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="--data parts/train --validation-data parts/val"):
        open_source("parts")
    (work / "classes" / "cat").mkdir(parents=True)
    (work / "classes" / "dog").mkdir()
    keras.utils.save_img(work / "classes/cat/1.png", np.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match=r"no images .* in 'dog'"):
        open_source("classes")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": [1]}, "must hold the arrays x and y, but holds images"),
        ({"x": [[1]], "y": ["a"]}, "must be numbers"),
        ({"x": [[1], [2]], "y": [1]}, "one label per example"),
        ({"x": [[1], [2]], "y": [0.5, 1]}, "holds fractions"),
        ({"x": [[1], [2]], "y": [[0.5, 0.5], [1, 0]]}, "not one-hot"),
    ],
)
def test_npz_that_holds_something_else(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / "a.npz"))


def test_damaged_files(work):
    (work / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"'a\.npz'"):
        open_source("a.npz")
    with pytest.raises(ValueError, match=r"is a file, but not a .npz file"):
        open_source("big.keras")
