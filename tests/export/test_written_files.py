from __future__ import annotations

import json
import resource

import keras
import pytest

import keras_kd as kd
from keras_kd.export.written_files import check_places, written


@pytest.fixture
def small_files():
    """No file of this process may grow above 64 kB, as on a disk with no more room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_both_files_are_written(tmp_path):
    with written(tmp_path / "a.tflite", b"content", {"bytes": 7}) as temporary:
        assert temporary.read_bytes() == b"content"
        assert not (tmp_path / "a.tflite").exists()
    assert (tmp_path / "a.tflite").read_bytes() == b"content"
    assert json.loads((tmp_path / "a.tflite.json").read_text()) == {"bytes": 7}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_files(tmp_path, small_files):
    old = {"a.tflite": b"old", "a.tflite.json": b"{}"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    with (
        pytest.raises(OSError, match=r"Cannot write '\S*a\.tflite'.* after \d[\d,]* bytes"),
        written(tmp_path / "a.tflite", bytes(100_000), {}),
    ):
        raise AssertionError("the file was written")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_a_file_that_fails_its_check_leaves_the_old_files(tmp_path):
    (tmp_path / "a.tflite.json").write_text("old")
    with pytest.raises(ValueError, match="wrong"), written(tmp_path / "a.tflite", b"new", {}):
        raise ValueError("wrong")
    assert (tmp_path / "a.tflite.json").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tflite.json"]


def test_no_room_for_what_is_converted(tmp_path, small_files):
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
    (tmp_path / "a.tflite").write_bytes(b"old")
    with pytest.raises(OSError, match=r"could not be saved for the conversion.*File too large"):
        kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    assert (tmp_path / "a.tflite").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tflite"]


def test_a_folder_in_the_place_of_the_json(tmp_path):
    (tmp_path / "a.tflite.json").mkdir()
    with pytest.raises(OSError, match=r"a\.tflite\.json': it is a folder"):
        check_places(tmp_path / "a.tflite")
