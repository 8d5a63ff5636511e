from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_kd.system import files


def test_atomic_path_writes_the_file_and_leaves_nothing_else(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "new" / "folder" / "report.json"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".json"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_path_replaces_an_existing_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with files.atomic_path(str(target)) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_error(
    tmp_path: pathlib.Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_says_when_nothing_was_written(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="was not written"),
        files.atomic_path(tmp_path / "a.txt"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise
def test_a_killed_process_leaves_no_file_under_the_final_name(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.bin"
    code = (
        "import sys, time\n"
        "from keras_kd.system.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary, open(temporary, 'wb') as file:\n"
        "    file.write(b'half'); file.flush(); print('written', flush=True); time.sleep(60)\n"
    )
    root = pathlib.Path(files.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, cwd=root
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()


def test_check_writable_creates_parents_and_no_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "x" / "y" / "a.tflite"
    assert files.check_writable(target) == target
    assert list(target.parent.iterdir()) == []


def test_check_writable_leaves_an_existing_file(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.tflite"
    target.write_text("old")
    files.check_writable(target)
    assert target.read_text() == "old"


def test_check_writable_refuses_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        files.check_writable(tmp_path)


@pytest.mark.parametrize("tail", ["a.tflite", "deeper/a.tflite"])
def test_check_writable_names_the_parent_which_is_a_file(tmp_path: pathlib.Path, tail: str) -> None:
    (tmp_path / "blocking").write_text("a file")
    with pytest.raises(NotADirectoryError, match="blocking' is a file"):
        files.check_writable(tmp_path / "blocking" / tail)


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("path", ["/proc/a.tflite", "/proc/new/a.tflite"])
def test_check_writable_refuses_a_folder_without_write_access(path: str) -> None:
    with pytest.raises(OSError, match="Cannot write '/proc/"):
        files.check_writable(path)


def test_long_names_still_fit(tmp_path: pathlib.Path) -> None:
    target = tmp_path / ("n" * 240 + ".tflite")
    with files.atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


WRITERS = {
    "text": "path.write_text('a' * 1_000_000)",
    "numpy": "np.savez(path, a=np.zeros(250_000))",
    "keras": "model.save(path)",
    "h5": "f = h5py.File(path, 'w'); f['a'] = np.zeros(250_000); f.close()",
    "records": "w = tf.io.TFRecordWriter(str(path)); w.write(b'a' * 1_000_000); w.close()",
}
SUFFIXES = {"keras": ".keras", "h5": ".h5", "numpy": ".npz"}
WRITE = """
import contextlib, os, pathlib, resource, sys
import h5py, keras, numpy as np, tensorflow as tf
from keras_kd.system.files import atomic_path
model = keras.Sequential([keras.Input((500,)), keras.layers.Dense(500)])
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
for suffix, code in eval(sys.argv[3]):
    target = pathlib.Path(sys.argv[1], "whole" + suffix)
    target.write_text("old")
    try:
        with atomic_path(target) as path:
            exec(code)
    except OSError as error:
        print(error, flush=True)
    assert target.read_text() == "old" and len(os.listdir(sys.argv[1])) == 1, os.listdir()
    target.unlink()
"""


@pytest.fixture(params=["tmpfs", "limit"])
def little_space(request, tmp_path):
    """A folder for files below 64 kB, and how it is limited."""
    if request.param == "tmpfs":
        options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("mounting needs the superuser")
    yield tmp_path, request.param
    if request.param == "tmpfs":
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.promise
def test_a_full_disk_is_one_sentence_whatever_library_notices_it(little_space) -> None:
    folder, kind = little_space
    pairs = [(SUFFIXES.get(name, ".bin"), code) for name, code in WRITERS.items()]
    arguments = [str(folder), kind, repr(pairs)]
    done = subprocess.run(
        [sys.executable, "-c", WRITE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(WRITERS), done.stdout
    for (suffix, _), line in zip(pairs, lines, strict=True):
        assert f"'{folder / ('whole' + suffix)}'" in line, line
        assert "no space" in line and "bytes" in line, line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_of_files_inside_one_another_the_inner_one_is_named(tmp_path, number) -> None:
    with (
        pytest.raises(OSError, match=r"^Cannot write '\S*inner\.bin'") as caught,
        files.atomic_path(tmp_path / "outer.bin"),
        files.atomic_path(tmp_path / "inner.bin"),
    ):
        raise OSError(number, os.strerror(number))
    assert "outer.bin" not in str(caught.value)
    assert not list(tmp_path.iterdir())
