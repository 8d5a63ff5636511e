import io
import json
import zipfile

import numpy as np
import pytest

from keras_kd.system import reading


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"a": ',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" * 300 + b"]" * 300,
        b"\xff\xfe",
        b"1" * 10_000,
    ],
    ids=["empty", "half", "open", "deep", "some 300", "bytes", "number"],
)
def test_json_that_cannot_be_read_names_its_file(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"report\.json"):
        reading.read_json(path)
    with pytest.raises(ValueError, match="inner"):
        reading.parse_json(content, "inner")


def test_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, {"ü": None}]}), encoding="utf-8")
    assert reading.read_json(path) == {"a": [1, {"ü": None}]}
    with pytest.raises(FileNotFoundError):
        reading.read_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "content", [b"a = \n", b"a = " + b"[" * 100_000, b"\xff", b"a = " + b"[" * 300 + b"]" * 300]
)
def test_toml_that_cannot_be_read_names_its_file(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"recipe\.toml"):
        reading.read_toml(path)


def test_a_text_of_any_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_TEXT", 10)
    (tmp_path / "a.json").write_text("[" + "1, " * 10 + "1]")
    for read in (reading.read_json, reading.read_toml):
        with pytest.raises(ValueError, match=r"a\.json"):
            read(tmp_path / "a.json")


def test_arrays(tmp_path):
    arrays = {"x": np.ones((2, 3), "float32"), "t": np.array("text"), "s": np.float64(2.0)}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    for name in ("a.npz", "b.npz"):
        read = reading.read_arrays(tmp_path / name)
        assert set(read) == set(arrays)
        np.testing.assert_array_equal(read["x"], arrays["x"])


def npy(shape, data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def archive_of(content):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(npy((3,), bytes(12))),
        archive_of(npy((10**12,))),
        archive_of(npy((10**6, 10**6, 10**6))),
        archive_of(npy((3,), bytes(5))),
        archive_of(b"no array"),
        lambda path: np.savez(path, x=np.array([{}], object)),
    ],
    ids=["cut", "flipped", "empty", "npy", "giant", "more", "short", "text", "objects"],
)
def test_damaged_arrays_name_their_file(tmp_path, damage):
    path = tmp_path / "projections.npz"
    np.savez(path, x=np.zeros(1000))
    damage(path)
    with pytest.raises(ValueError, match=r"projections\.npz"):
        reading.read_arrays(path)


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_SMALL", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"bomb.npz.*x.npy"):
        reading.read_arrays(tmp_path / "bomb.npz")
    np.savez(tmp_path / "plain.npz", x=np.zeros(10**6))
    assert reading.read_arrays(tmp_path / "plain.npz")["x"].size == 10**6
