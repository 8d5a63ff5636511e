"""A file that is not what it should be gives one clear error, and never ends the process."""

import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

import keras_kd as kd
from keras_kd.litert import loading

REFERENCE = pathlib.Path(__file__).parents[2] / "exports" / "reference" / "seed0" / "int8.tflite"
DATA = np.zeros((3, 28, 28, 1), np.float32), np.array([0, 1, 2])

USES = {
    "evaluate_tflite": lambda path: kd.evaluate_tflite(path, DATA, runs=1, warmup=0),
    "benchmark_tflite": lambda path: kd.benchmark_tflite(path, runs=1, warmup=0),
    "export_c_array": lambda path: kd.export_c_array(path, trial=False),
    "teachers.load": lambda path: kd.teachers.load(path),
}


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


FOREIGN = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "short": (lambda path: path.write_bytes(REFERENCE.read_bytes()[:7]), "is not a TFLite file"),
    "zip or .keras": (zipped, "is not a TFLite file"),
    "PNG": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 99), "not a TFLite file"),
    "ONNX": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch:" * 9), "not a TFLite file"),
    "other flatbuffer": (
        lambda path: path.write_bytes(struct.pack("<I", 16) + b"ARRO" + bytes(99)),
        "not a TFLite file",
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("write", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(tmp_path, use, write, message):
    path = tmp_path / "model.tflite"
    write(path)
    with pytest.raises(ValueError, match=message):
        use(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_no_file(tmp_path, use):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        use(tmp_path / "none.tflite")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads every file")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_file_that_may_not_be_read(tmp_path, use):
    path = tmp_path / "model.tflite"
    path.write_bytes(REFERENCE.read_bytes())
    path.chmod(0)
    with pytest.raises(PermissionError):
        use(path)


def test_a_run_without_an_end_is_stopped(tmp_path, monkeypatch):
    script = tmp_path / "loop.py"
    script.write_text("while True:\n    pass\n")
    monkeypatch.setattr(loading.probe, "__file__", str(script))
    monkeypatch.setattr(loading, "_SECONDS", 1)
    path = tmp_path / "model.tflite"
    path.write_bytes(REFERENCE.read_bytes())
    with pytest.raises(ValueError, match="did not end its first run within 1 seconds"):
        kd.benchmark_tflite(path)


def damaged(content, generator):
    """Cut a file short or overwrite some of its bytes, behind the identifier."""
    if generator.random() < 0.3:
        return content[: int(generator.integers(8, len(content)))]
    changed = bytearray(content)
    for _ in range(int(generator.choice([1, 3, 20]))):
        # Most of the damage in the tables at the end; weights make no difference to a loader.
        first = 8 if generator.random() < 0.3 else len(content) - 12000
        changed[int(generator.integers(first, len(content)))] = int(generator.integers(256))
    return bytes(changed)


def survive(folder, count, seed):
    """Use damaged files in every way, and return how many of them were refused."""
    generator = np.random.default_rng(seed)
    content = REFERENCE.read_bytes()
    refused = 0
    for number in range(count):
        path = folder / f"{number}.tflite"
        path.write_bytes(damaged(content, generator))
        for use in USES.values():
            try:
                use(path)
            except (ValueError, TypeError) as error:
                assert len(str(error)) > 20
                refused += 1
                break
            except Exception as error:
                raise AssertionError(f"{number}: {type(error).__name__}: {error}") from error
    return refused


def test_damaged_files(tmp_path):
    assert survive(tmp_path, 3, seed=3) >= 1  # the first one is cut short


@pytest.mark.promise
def test_hundreds_of_damaged_files(tmp_path):
    assert survive(tmp_path, 300, seed=1) >= 100
