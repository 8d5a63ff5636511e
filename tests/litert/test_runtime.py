from __future__ import annotations

import pathlib
import struct

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.runtime import LiteRuntime, check_file
from keras_kd.measuring.evaluate import evaluate_tflite


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 3), name="x"), layers.Conv1D(4, 3)])
    path = tmp_path_factory.mktemp("whole") / "a.tflite"
    return export_tflite(model, path, verbose=False).read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: b"", "is empty"),
        (lambda c: c[:6], "is not a TFLite file"),
        (lambda c: b"PK\x03\x04" + c, "is not a TFLite file: bytes 4 to 8 are"),
        (lambda c: c[: len(c) // 2], "LiteRT cannot run"),
        (lambda c: c[:-1], "LiteRT cannot run"),
        (
            lambda c: c.replace(b"serving_default_x:0", b"serving\xff\xfe\xfffault_x:0"),
            "can.t decode byte 0xff",
        ),
        # A root table far behind the end of the file.
        (lambda c: struct.pack("<I", 0x7FFFFF00) + b"TFL3", "LiteRT cannot run"),
    ],
    ids=["empty", "short", "foreign", "half", "last byte", "name", "wild offset"],
)
def test_damaged_files(tmp_path: pathlib.Path, content: bytes, damage, message: str) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(damage(content))
    with pytest.raises(ValueError, match=message):
        evaluate_tflite(path, np.zeros((1, 8, 3), np.float32))


def test_a_file_which_crashes_the_loader_is_refused(
    tmp_path: pathlib.Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "crash.py"
    crashing.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr("keras_kd.litert.probe.__file__", str(crashing))
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: LiteRT crashed on it \(signal 11\)"):
        check_file(path)


def test_missing_file_and_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file at"):
        check_file(tmp_path / "none.tflite")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_file(tmp_path)


@pytest.mark.fast_cases("sizes0")
@pytest.mark.parametrize("sizes", [(1,), (5, 2, 5), (1, 3)])
def test_batches_of_any_size(tmp_path: pathlib.Path, sizes: tuple[int, ...]) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 3), name="x"), layers.Conv1D(4, 3)])
    for batch_size in (None, 2):
        path = export_tflite(
            model, tmp_path / f"{batch_size}.tflite", batch_size=batch_size, verbose=False
        )
        runtime = LiteRuntime(path)
        for size in sizes:
            x = np.random.default_rng(size).random((size, 8, 3), np.float32)
            (output,) = runtime.predict({"x": x}).values()
            np.testing.assert_allclose(output, model(x), atol=1e-5)


def test_inputs_of_any_length(tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((None, 3), name="x"), layers.Conv1D(4, 3), layers.GlobalMaxPooling1D()]
    )
    runtime = LiteRuntime(export_tflite(model, tmp_path / "a.tflite", verbose=False))
    assert runtime.inputs[0].shape == (None, None, 3)
    for length in (5, 9):
        x = np.random.default_rng(0).random((2, length, 3), np.float32)
        (output,) = runtime.predict({"x": x}).values()
        np.testing.assert_allclose(output, model(x), atol=1e-5)


def test_without_the_default_delegate(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    x = np.random.default_rng(0).random((3, 8, 3), np.float32)
    plain, delegated = LiteRuntime(path, xnnpack=False), LiteRuntime(path)
    assert plain.delegate == "none (LiteRT's own kernels)"
    assert delegated.delegate == "XNNPACK (1 part)"
    (a,), (b,) = plain.predict({"x": x}).values(), delegated.predict({"x": x}).values()
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_loading_prints_nothing(
    tmp_path: pathlib.Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    capfd.readouterr()
    LiteRuntime(path).predict({"x": np.zeros((7, 8, 3), np.float32)})
    assert capfd.readouterr() == ("", "")
