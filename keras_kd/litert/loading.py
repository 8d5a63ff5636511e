"""Whether a file loads in LiteRT, tried in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from keras_kd.litert import probe
from keras_kd.litert.model_file import IDENTIFIER
from keras_kd.system.arguments import as_path
from keras_kd.system.own_process import run_script

# A damaged loop may never end. No file that can be measured needs this long for one run.
_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Probed:
    """What was seen when a file was loaded and run once.

    Attributes:
        path: The file.
        loads_with_xnnpack: Whether it works with LiteRT's default delegate.
        xnnpack_error: Why it does not, or `None`.
        made_up_inputs_error: Why an operator failed on the made-up numbers of that run, or `None`.
            Such a file may be good for real ones.
        peak_memory_bytes: By how much the process's memory grew at most, or `None` where the system
            does not tell. The file is mapped, so that only the pages which are read count; the
            parts of LiteRT's own code which the file needs are in it.
    """

    path: pathlib.Path
    loads_with_xnnpack: bool
    xnnpack_error: str | None
    peak_memory_bytes: int | None
    made_up_inputs_error: str | None = None


_probed: dict[tuple[str, int, int], Probed] = {}


def check_file(
    path: str | os.PathLike[str], samples: Sequence[Sequence[np.ndarray]] = ()
) -> pathlib.Path:
    """Make sure that the file at `path` is a TFLite file which LiteRT loads and runs by default.

    Args:
        path: The file.
        samples: As for `probe_file`.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        OSError: If it is a folder or cannot be read.
        ValueError: If it is empty, of another format, damaged, or LiteRT cannot run it with its
            default delegate.
    """
    probed = probe_file(path, samples)
    if probed.made_up_inputs_error is not None:
        raise ValueError(f"LiteRT cannot run '{path}': {probed.made_up_inputs_error}")
    check_delegate(probed)
    return probed.path


def check_delegate(probed: Probed) -> None:
    """Make sure that a file works with LiteRT's default delegate.

    Raises:
        ValueError: If it does not.
    """
    if not probed.loads_with_xnnpack:
        raise ValueError(
            f"LiteRT cannot run '{probed.path}' with its default delegate, XNNPACK: "
            f"{probed.xnnpack_error} It can without."
        )


def probe_file(
    path: str | os.PathLike[str], samples: Sequence[Sequence[np.ndarray]] = ()
) -> Probed:
    """Load and run the file at `path` once, without LiteRT's default delegate if need be.

    A damaged file can end the process which loads it, so the first look is taken by another one.

    Args:
        path: The file.
        samples: Real inputs in the order of the file's, each of batch size 1, to run it on.
            Defaults to none: made-up numbers.

    Returns:
        A `Probed`.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If there is no file at `path`.
        OSError: If it is a folder or cannot be read.
        ValueError: If it is empty, of another format, damaged, or LiteRT cannot run it at all.
    """
    path = as_path(path, "Pass the path of a .tflite file.")
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; a .tflite file was expected.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file at '{path}'.")
    with open(path, "rb") as file:
        head = file.read(8)
    if not head:
        raise ValueError(f"'{path}' is empty; a TFLite file was expected. Export the model again.")
    if head[4:8] != IDENTIFIER:
        raise ValueError(
            f"'{path}' is not a TFLite file: bytes 4 to 8 are {head[4:8]!r} where "
            f"{IDENTIFIER!r} was expected."
        )
    status = path.stat()
    key = str(path.resolve()), status.st_mtime_ns, status.st_size
    if key not in _probed:
        _probed[key] = _probe(path, samples)
    return dataclasses.replace(_probed[key], path=path)


def _probe(path: pathlib.Path, samples: Sequence[Sequence[np.ndarray]]) -> Probed:
    if not sys.executable:  # an embedded interpreter cannot start another one
        return Probed(path, True, None, None)
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        if samples:
            inputs = [os.path.join(folder, "samples.npz"), str(len(samples))]
            np.savez(inputs[0], *(array for arrays in samples for array in arrays))
        done = _run(path, "xnnpack", *inputs)
        if not done.returncode:
            return Probed(path, True, None, json.loads(done.stdout.splitlines()[-1]))
        again = _run(path, "plain", *inputs)
    if not again.returncode:
        memory = json.loads(again.stdout.splitlines()[-1])
        return Probed(path, False, _reason(done), memory)
    if done.returncode == again.returncode == _MADE_UP_REFUSED:
        return Probed(path, True, None, None, _reason(done))
    if done.returncode < 0:
        raise ValueError(f"'{path}' is damaged: {_reason(done)} Export the model again.")
    verb = "run" if done.returncode in (_REFUSED, _MADE_UP_REFUSED) else "load"
    raise ValueError(f"LiteRT cannot {verb} '{path}': {_reason(done)}")


def _run(path: pathlib.Path, delegate: str, *inputs: str) -> subprocess.CompletedProcess[str]:
    try:
        return run_script(probe.__file__, str(path.resolve()), delegate, *inputs, seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"'{path}' did not end its first run within {_SECONDS} seconds: it is damaged (an "
            "endless loop or a huge size) or too large for this machine."
        ) from None


# What probe.py ends with where LiteRT says no, and where it does so to made-up numbers.
_REFUSED, _MADE_UP_REFUSED = 3, 4


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode in (_REFUSED, _MADE_UP_REFUSED):
        return done.stdout.strip()
    if done.returncode < 0:
        return f"LiteRT crashed on it (signal {-done.returncode})."
    return done.stderr.strip()[-2000:]
