from __future__ import annotations

import os
import pathlib
import zipfile

import pytest

from keras_kd.measuring.sizes import file_size, zipped_size


@pytest.mark.parametrize("content", [b"", b"a" * 100_000, os.urandom(3_000_000)])
def test_sizes_are_those_of_the_file_and_of_a_real_archive(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    path = tmp_path / "weights.tflite"
    path.write_bytes(content)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.write(path, path.name)
    assert file_size(path) == len(content)
    assert zipped_size(path) == archive.stat().st_size


def test_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_size(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        zipped_size(tmp_path / "none")
