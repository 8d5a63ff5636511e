"""Reading JSON, TOML and NumPy archives that may come from elsewhere.

Everything in the package that reads such a file reads it here: a file that is damaged, nested
without end or larger than it seems gives a `ValueError` that names it, before its contents take
memory.
"""

from __future__ import annotations

import json
import os
import pathlib
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Of text: values in memory take some ten times as much.
_MOST_TEXT = 256 * 2**20
_MOST_DEPTH = 200
# A part of an archive may be this small, or unpack to this many times what it takes in the file.
_SMALL = 256 * 2**20
_MOST_EXPANSION = 200


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not whole JSON, nested too deeply or too large; names the file.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str | bytes, source: str | os.PathLike[str]) -> Any:
    """Return what a JSON text holds.

    Args:
        text: The text.
        source: The file that it stands in, for the error.

    Raises:
        ValueError: If it is not whole JSON, or nested too deeply.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{source}' is damaged: it is not whole JSON ({error}).") from None
    return _of_bounded_depth(content, source)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not TOML (with the line), nested too deeply or too large; names the
            file.
    """
    try:
        content: dict[str, Any] = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a TOML file: {error}.") from None
    _of_bounded_depth(content, path)
    return content


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file by name; objects, which hold code, are not read.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, holds anything but plain arrays, or is larger than it seems.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _check_header(file, entry)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds
        raise ValueError(
            f"'{path}' is damaged, or not an .npz file of plain arrays ({error})."
        ) from None


def check_archive(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Refuse an archive that unpacks to far more than it takes in its file.

    Raises:
        ValueError: With the name of the archive and of its part.
    """
    for entry in archive.infolist():
        if is_out_of_proportion(entry.file_size, entry.compress_size):
            raise ValueError(
                f"'{path}' is refused: '{entry.filename}' in it unpacks from "
                f"{entry.compress_size:,} to {entry.file_size:,} bytes. If it is your own, "
                "write it without compression."
            )


def is_out_of_proportion(size: int, stored: int) -> bool:
    """Whether something takes far more bytes in memory than it takes in its file."""
    return size > max(_SMALL, _MOST_EXPANSION * stored)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return what a file of text in UTF-8 holds, or in UTF-16 with its mark, as Windows writes it.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not such text, or too large; names the file.
    """
    size = os.stat(path).st_size
    if size > _MOST_TEXT:
        raise ValueError(f"'{path}' is refused: {size:,} bytes are too many for such a file.")
    try:
        content = pathlib.Path(path).read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is damaged: it is not text in UTF-8 ({error}).") from None


def _of_bounded_depth(content: Any, source: str | os.PathLike[str]) -> Any:
    """Return `content`, which nothing behind this can fail on for its depth alone."""
    level = [content]
    for _ in range(_MOST_DEPTH):
        level = [
            part
            for value in level
            if isinstance(value, (dict, list))
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return content
    raise ValueError(f"'{source}' is refused: it is nested more than {_MOST_DEPTH} levels deep.")


def _check_header(file: Any, entry: zipfile.ZipInfo) -> None:
    """Refuse an array that declares more than its part of the archive holds."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"'{entry.filename}' has the format {version}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"'{entry.filename}' holds Python objects")
    size = dtype.itemsize
    for side in shape:
        size *= side
    if size > entry.file_size:
        raise ValueError(f"'{entry.filename}' declares {size:,} bytes and has {entry.file_size:,}")
