"""A folder that one process at a time writes into."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO

from keras_kd.system.files import check_writable


@contextlib.contextmanager
def held_folder(path: str | os.PathLike[str], wait_for: str | None = None) -> Iterator[None]:
    """Hold a folder, so that no other process writes into it.

    The operating system lets go of it when the process ends, however it ends: the lock of a dead
    process holds nobody up. Where a file system has no locks, nothing is held.

    Args:
        path: The folder; made if it does not exist.
        wait_for: What is said while another process holds the folder, to wait for its end.
            Defaults to `None`: an error at once.

    Raises:
        BlockingIOError: If another process holds it.
        OSError: If the folder cannot be written to.
        ValueError: If the lock is a link, or no file at all.
    """
    folder = pathlib.Path(path)
    check_writable(folder / "lock")
    lock = folder / ".lock"
    while True:
        file = _opened(lock)
        if not _try_lock(file):
            holder = _holder(file)
            file.close()
            if wait_for is None:
                raise BlockingIOError(
                    f"Another process{holder} is at work in '{folder}', and two would spoil each "
                    "other's files. Wait until it has ended, or give another folder."
                )
            if wait_for:
                print(wait_for, flush=True)
            wait_for = ""
            time.sleep(0.2)
            continue
        # A holder removes the file at its end: what was locked may not be there any more.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()
    try:
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f" ({os.getpid()} on {socket.gethostname()})")
            file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            lock.unlink()
        file.close()


def _opened(lock: pathlib.Path) -> IO[str]:
    # Neither followed nor waited for: a link or a pipe may have come with the folder.
    special = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | special, 0o666), "r+")
    except OSError as error:
        if not lock.is_symlink() and not lock.exists():
            raise
        raise ValueError(
            f"'{lock}' is not a lock of this package and cannot be opened ({error.strerror}): "
            "remove it, or give another folder."
        ) from None


def _holder(file: IO[str]) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        file.seek(0)
        return file.read(200)
    return ""


def _try_lock(file: IO[str]) -> bool:
    """Lock an open file, and say whether it could be; the lock ends with the file or process."""
    if sys.platform == "win32":
        import msvcrt

        try:
            file.seek(2**30)  # Windows locks bytes, which nobody can read meanwhile
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
