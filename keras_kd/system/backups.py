"""Backups: the newest and the one before it, each of them whole."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Callable
from typing import TypeVar

from keras_kd.system.files import atomic_path
from keras_kd.system.shown_text import first_line
from keras_kd.system.user_warning import warn_user

Content = TypeVar("Content")


def write_backup(path: str | os.PathLike[str], write: Callable[[pathlib.Path], None]) -> None:
    """Write a backup aside, and keep the one before it.

    A process that is killed at any moment leaves a whole backup, the new one or the one before.

    Args:
        path: The newest backup; the one before it stands beside it.
        write: Writes a file to a path.

    Raises:
        OSError: If it cannot be written, such as on a full disk; the one before it stays.
    """
    with atomic_path(path, keep=_before(pathlib.Path(path))) as temporary:
        write(temporary)


def read_backup(
    path: str | os.PathLike[str], read: Callable[[pathlib.Path], Content]
) -> Content | None:
    """Return what the newest whole backup holds, or `None` where there is none.

    A damaged one is removed with a warning, so that it does not displace the one before it.

    Args:
        path: As in `write_backup`.
        read: Reads a file, and raises an error if anything in it is damaged.
    """
    newest = pathlib.Path(path)
    for file in (newest, _before(newest)):
        if not file.exists():
            continue
        try:
            return read(file)
        except Exception as error:
            other = file == newest and _before(newest).exists()
            warn_user(
                f"The backup '{file}' is damaged and was removed ({first_line(error)}): training "
                f"resumes from {'the backup before it' if other else 'its beginning'}."
            )
            file.unlink()
    return None


def remove_backup(path: str | os.PathLike[str]) -> None:
    """Remove both backups, and what killed processes left of unfinished ones."""
    newest = pathlib.Path(path)
    unfinished = newest.parent.glob(f".{glob.escape(newest.stem[:32])}.*")
    for file in (newest, _before(newest), *unfinished):
        file.unlink(missing_ok=True)


def _before(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}.before{path.suffix}")
