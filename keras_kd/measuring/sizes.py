"""The size of a file, as it is and zipped."""

from __future__ import annotations

import os
import pathlib
import zlib

# What a zip archive adds to the deflated bytes of one entry: local header (30), central directory
# entry (46), end record (22), and the entry's name twice.
_ZIP_RECORDS = 30 + 46 + 22


def file_size(path: str | os.PathLike[str]) -> int:
    """Return the size of the file at `path`.

    Args:
        path: A file.

    Returns:
        Its size in bytes.

    Raises:
        OSError: If there is no file at `path`.
    """
    return pathlib.Path(path).stat().st_size


def zipped_size(path: str | os.PathLike[str]) -> int:
    """Return the size of a zip archive (deflate, level 9) which holds only the file at `path`.

    Pruned and clustered weights show in this number even where the file itself stores them densely.

    Args:
        path: A file.

    Returns:
        The archive's size in bytes.

    Raises:
        OSError: If there is no file at `path`.
    """
    path = pathlib.Path(path)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    size = _ZIP_RECORDS + 2 * len(path.name.encode("utf-8"))
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            size += len(deflate.compress(chunk))
    return size + len(deflate.flush())
