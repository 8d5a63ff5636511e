"""What was run: the versions of the packages, the machine, the command."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterable
from typing import Any

_PACKAGES = (
    "keras-kd",
    "keras",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
)


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of what this package stands on, and of `packages`.

    Args:
        packages: Names of further distributions. Defaults to none. What is not installed is left
            out.
    """
    found = {"python": platform.python_version()}
    for name in dict.fromkeys((*_PACKAGES, *packages)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "keras-kd":  # run from a checkout
                from keras_kd._version import __version__

                found[name] = __version__
    return found


def environment() -> dict[str, Any]:
    """Return what describes this machine: its cores, its processor, its system."""
    processor = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"cores": os.cpu_count(), "processor": processor, "system": platform.system()}


def script_command() -> str:
    """Return the command that this process was started with, as it can be typed again.

    Returns:
        `"python train.py --epochs 3"`; `""` in a notebook or a console, where there is none.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not script or "ipykernel" in script or not sys.argv or not sys.argv[0]:
        return ""
    path = pathlib.Path(script)
    try:
        shown = path.resolve().relative_to(pathlib.Path.cwd()).as_posix()
    except ValueError:
        shown = path.name
    return shlex.join(["python", shown, *sys.argv[1:]])
