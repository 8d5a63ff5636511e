"""Files that are either whole or absent: written under a temporary name, then moved into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

# A full disk, a quota that is used up, a limit on the size of a file.
_FULL = tuple(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)
)


class _FullDisk(OSError):
    """A full disk, told with the file that was being written."""


def _temporary_sibling(path: pathlib.Path) -> pathlib.Path:
    # The stem is cut so that the temporary name stays within a file system's 255 bytes.
    return path.with_name(f".{path.stem[:32]}.{secrets.token_hex(6)}{path.suffix}")


def write_if_changed(path: pathlib.Path, text: str) -> bool:
    """Write a text file where it holds another text, and return whether it did."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file that is whole or absent. NaN and infinity are written as Python reads them.

    Args:
        path: The file's path. Missing parent folders are created.
        content: What `json.dumps` accepts; see `json_values.plain` for other values.

    Raises:
        OSError: If the file cannot be written.
        TypeError: If JSON cannot hold the content.
    """
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def check_writable(path: str | os.PathLike[str]) -> pathlib.Path:
    """Make sure that a file can be written at `path`, before work whose result would be lost.

    Missing parent folders are created. A file which already stands at `path` is left as it is.

    Args:
        path: Where the file is to be written.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        OSError: If `path` is a folder, if a parent of it is a file, or if its folder cannot be
            created or written to.

    Example:

    >>> check_writable("exports/student.tflite")
    PosixPath('exports/student.tflite')
    """
    target = pathlib.Path(path)
    if target.is_dir() or not target.name:
        raise IsADirectoryError(
            f"Cannot write '{target}': it is a folder. Give the path of a file inside it."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        blocking = next(p for p in target.parents if p.exists() and not p.is_dir())
        raise NotADirectoryError(
            f"Cannot write '{target}': '{blocking}' is a file, and a folder was expected there."
        ) from None
    except OSError as error:
        raise type(error)(
            f"Cannot write '{target}': its folder '{target.parent}' cannot be created "
            f"({error.strerror}). Give a path in a folder that can be written to."
        ) from None
    # os.access is no answer for the superuser or a read-only mount: a file is really created.
    probe = _temporary_sibling(target)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise type(error)(
            f"Cannot write '{target}': no file can be created in '{target.parent}' "
            f"({error.strerror}). Give a path in a folder that can be written to."
        ) from None
    probe.unlink()
    return target


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike[str], keep: str | os.PathLike[str] | None = None
) -> Iterator[pathlib.Path]:
    """Give a temporary path to write to, and move the file to `path` once it is whole.

    The temporary file is in the folder of `path` and has its suffix. On any error, and on an
    interrupt, it is removed and whatever stood at `path` before stays. A process killed outright
    may leave the temporary file (its name starts with a dot), never a part of a file at `path`.

    Args:
        path: The file's final path. Missing parent folders are created.
        keep: Where the file that stood at `path` is moved to. Defaults to `None`: it is replaced.

    Yields:
        A `pathlib.Path` at which the body of the `with` statement must write one file.

    Raises:
        OSError: If `path` cannot be written to (see `check_writable`), before the body runs; if
            the disk is full, whatever library noticed it.
        FileNotFoundError: If the body wrote no file.

    Example:

    ```python
    with atomic_path("exports/report.json") as temporary:
        temporary.write_text(text, encoding="utf-8")
    ```
    """
    target = check_writable(path)
    temporary = _temporary_sibling(target)
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(
                f"'{target}' was not written: nothing was put at '{temporary}'."
            )
        # Without this, a power cut after the rename can leave an empty file under the final name.
        with open(temporary, "r+b") as written:
            os.fsync(written.fileno())
        if keep is not None and target.exists():
            os.replace(target, keep)
        os.replace(temporary, target)
    except Exception as error:
        # Of files written inside one another, the inner one was being written.
        if isinstance(error, _FullDisk) or not _is_full(error):
            raise
        raise _full(target, temporary) from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk without space is behind an error of Python, HDF5 or TensorFlow."""
    texts = [os.strerror(number) for number in _FULL]
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(target: pathlib.Path, temporary: pathlib.Path) -> OSError:
    written = temporary.stat().st_size if temporary.exists() else 0
    free = shutil.disk_usage(target.parent).free
    error = _FullDisk(
        f"Cannot write '{target}': there is no space for it in '{target.parent}' (stopped after "
        f"{written:,} bytes; {free:,} bytes are free). Free some space and run the same again, or "
        "give a path on another disk."
    )
    error.errno = errno.ENOSPC
    return error


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, or of the names and contents in a folder, in hexadecimal.

    Hidden files in a folder do not count.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
    """
    path = pathlib.Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.name[0] != "."):
            content = sha256(file) if file.is_file() else ""
            digest.update(f"{file.relative_to(path)} {content}\n".encode())
        return digest.hexdigest()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
