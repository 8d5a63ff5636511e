"""Writing a TFLite file and the JSON that describes it, both or none."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from keras_kd.litert.metadata import metadata_path
from keras_kd.system.files import atomic_path, check_writable


def check_places(target: pathlib.Path) -> None:
    """Make sure that the file and its JSON can be written.

    Raises:
        OSError: If one of them cannot.
    """
    check_writable(target)
    check_writable(metadata_path(target))


@contextlib.contextmanager
def written(
    target: pathlib.Path, content: bytes, metadata: dict[str, Any]
) -> Iterator[pathlib.Path]:
    """Write both files under temporary names, and move them into place behind the `with` block.

    The block may run the file, beside which its JSON stands, and keeps both from being moved by
    raising an error. Between the two moves, the old JSON does not describe the new file: its
    checksum tells.

    Args:
        target: The file's final path.
        content: Its bytes.
        metadata: The JSON's content.

    Yields:
        The temporary file's path.

    Raises:
        OSError: If the disk is full, or a file may not become as large.
    """
    text = json.dumps(metadata, indent=2, allow_nan=False) + "\n"
    with atomic_path(metadata_path(target)) as temporary_json, atomic_path(target) as temporary:
        temporary.write_bytes(content)
        temporary_json.write_text(text, encoding="utf-8")
        beside = metadata_path(temporary)
        try:
            beside.write_text(text, encoding="utf-8")
            yield temporary
        finally:
            beside.unlink(missing_ok=True)
