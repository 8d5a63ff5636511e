from __future__ import annotations

import hashlib
import json
import resource

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.data.input import Input
from keras_kd.export.metadata import check_fits, check_labels, check_places, written
from keras_kd.export.signatures import Signature
from keras_kd.litert.metadata import metadata_path, read_metadata
from keras_kd.litert.runtime import LiteRuntime

NAMES = ["ant", "bée", "cat", "dog"]
MEAN = [0.5, 0.25, 0.0]
PREPROCESSING = {"scale": 1 / 255, "mean": MEAN, "std": 0.5, "color": "RGB", "crop": 0.9}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras.utils.set_random_seed(0)
    i = keras.Input((3,), name="x")
    model = keras.Model(i, layers.Dense(4, name="y")(i))
    x = np.random.default_rng(0).standard_normal((40, 3)).astype("float32")
    folder = tmp_path_factory.mktemp("exported")
    path = kd.export_tflite(
        model,
        folder / "a.tflite",
        "int8",
        representative_data=(x, np.arange(40) % 4),
        integer_io=True,
        class_names=NAMES,
        preprocessing=PREPROCESSING,
        verbose=False,
    )
    return model, path, x


def test_the_json_describes_the_file(exported):
    _, path, _ = exported
    found = read_metadata(path)
    content = path.read_bytes()
    assert found == json.loads((path.parent / "a.tflite.json").read_text())
    assert (found["format"], found["schema_version"]) == ("keras_kd.tflite", 1)
    assert (found["file"], found["bytes"]) == ("a.tflite", len(content))
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert (found["quantization"], found["class_names"]) == ("int8", NAMES)
    assert found["preprocessing"] == PREPROCESSING
    assert found["calibration"] == {
        "samples": 40,
        "batches": 2,
        "missing_classes": [],
        "ranges": "minmax",
        "tried": found["calibration"]["tried"],
    }
    assert found["calibration"]["tried"][0]["name"] == "minmax"
    inputs, outputs = LiteRuntime(path).describe_tensors()
    for ends, wanted in ((found["inputs"], inputs), (found["outputs"], outputs)):
        assert [end.keys() for end in ends] == [end.keys() for end in wanted]
        for end, other in zip(ends, wanted, strict=True):
            assert end.pop("scale") == pytest.approx(other.pop("scale"))
            assert end == other
    assert found["operators"] == {"FULLY_CONNECTED": 1}
    assert found["was_run"] is True and found["flex_operators"] == []
    assert found["versions"]["keras"] == keras.__version__


def test_the_json_of_another_file_is_not_read(exported, tmp_path):
    _, path, _ = exported
    other = tmp_path / "b.tflite"
    other.write_bytes(path.read_bytes())
    assert read_metadata(other) is None
    metadata_path(other).write_text(metadata_path(path).read_text())
    assert read_metadata(other)["class_names"] == NAMES
    other.write_bytes(path.read_bytes() + b"changed")
    with pytest.warns(UserWarning, match="describes another file"):
        assert read_metadata(other) is None
    metadata_path(other).write_text("{")
    with pytest.warns(UserWarning, match="describes another file"):
        assert read_metadata(other) is None
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "none.tflite")


@pytest.mark.parametrize(
    ("names", "preprocessing", "message"),
    [
        (["a", ""], None, "must be a list of names"),
        (["a", "b\nc"], None, "must be a list of names"),
        ([1, 2], None, "must be a list of names"),
        (["a", "b\rc"], None, "must be a list of names"),
        ({"a", "b"}, None, "must be a list of names"),
        ({"b": 1, "a": 0}, None, "must be a list of names"),
        (None, {"mean": "bright"}, "must hold numbers"),
        (None, {"scale": float("nan")}, "must hold numbers"),
        (None, {"scale": 0}, "must hold numbers"),
        (None, {"mean": 0.5, "std": [1.0, 0.0]}, "must hold numbers"),
        (None, {"mean": None}, "must hold numbers"),
        (None, {"mean": []}, "must hold numbers"),
        (None, {"mean": [[0.5]]}, "must hold numbers"),
        (None, {"mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0]}, "must hold numbers"),
    ],
)
def test_what_cannot_be_written_is_refused(names, preprocessing, message):
    with pytest.raises(ValueError, match=message):
        check_labels(names, preprocessing)


def signature(*shape):
    given = Input("image", (None, *shape), np.dtype("float32"))
    return {"serving_default": Signature((given,), ("y",), ((None, 4),))}


@pytest.mark.parametrize(
    ("shape", "kind", "fits", "other"),
    [
        ((None, 4), "float32", 4, 5),
        ((None, 1), "float32", 2, 1),
        ((None, 8, 8, 5), "float32", 5, 8),
        ((None,), "float32", 2, 3),
        ((8,), "float32", 2, 8),  # of a fixed batch
        ((None, 8, 8), "int32", 5, None),
        ((1,), "int64", 10, None),
        ((), "float32", 3, None),
    ],
)
def test_how_many_classes_an_output_has(shape, kind, fits, other):
    given = Input("x", (None, 3), np.dtype("float32"))
    found = {"f": Signature((given,), ("y",), (shape,), (), (kind,))}
    check_fits([str(i) for i in range(fits)], None, found)
    if other is not None:
        with pytest.raises(ValueError, match=f"has {other} names"):
            check_fits([str(i) for i in range(other)], None, found)


@pytest.mark.parametrize("key", ["scale", "mean", "std"])
@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 8, 8), (16, 3), (3,)])
def test_there_is_one_number_per_channel(key, shape):
    for numbers in (0.5, [0.5], [0.5, 0.4, 0.3]):
        check_fits(None, {key: numbers}, signature(*shape))
        check_fits(None, {key: numbers}, signature(*shape[:-1], None))
    for count in (2, 4):
        with pytest.raises(ValueError, match=rf"preprocessing\['{key}'\]` has {count} numbers"):
            check_fits(None, {key: [0.5] * count}, signature(*shape))
    with pytest.raises(ValueError, match=rf"preprocessing\['{key}'\]` has 3 numbers"):
        check_fits(None, {key: [0.5] * 3}, signature())


@pytest.mark.parametrize(
    ("color", "shape"), [("RGB", (8, 8, 1)), ("rgb", (1, 8, 8)), ("GRAYSCALE", (8, 8, 3))]
)
def test_a_color_is_one_of_so_many_channels(color, shape):
    with pytest.raises(ValueError, match=r"preprocessing\['color'\]"):
        check_fits(None, {"color": color}, signature(*shape))
    check_fits(None, {"color": color}, signature(8, 8))
    check_fits(None, {"color": "BGR"}, signature(*shape))


def test_a_preprocessing_that_does_not_fit_is_refused_before_the_conversion(tmp_path):
    i = keras.Input((4, 4, 3))
    model = keras.Model(i, layers.Flatten()(i))
    with pytest.raises(ValueError, match=r"preprocessing\['mean'\]` has 4 numbers"):
        kd.export_tflite(model, tmp_path / "a.tflite", preprocessing={"mean": [0.1] * 4})
    assert not list(tmp_path.iterdir())


def test_arrays_become_lists():
    names, preprocessing = check_labels(np.array(["a", "b"]), {"mean": np.array([1.0, 2.0])})
    assert (names, preprocessing) == (["a", "b"], {"mean": [1.0, 2.0]})


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
    model = keras.Sequential([keras.Input((300,)), layers.Dense(300)])
    (tmp_path / "a.tflite").write_bytes(b"old")
    with pytest.raises(OSError, match=r"could not be saved for the conversion.*File too large"):
        kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    assert (tmp_path / "a.tflite").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tflite"]


def test_a_folder_in_the_place_of_the_json(tmp_path):
    (tmp_path / "a.tflite.json").mkdir()
    with pytest.raises(OSError, match=r"a\.tflite\.json': it is a folder"):
        check_places(tmp_path / "a.tflite")
