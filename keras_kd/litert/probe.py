"""Load a TFLite file and run it once; run as a script, in a process which may crash.

It imports nothing of keras_kd, so that it starts in a fraction of a second, and so that its memory
is LiteRT's.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np

# Tried in this order for dimensions of any size: convolutions need more than one position.
_FREE_SIZES = (64, 1)


def run_once(interpreter: Any) -> None:
    """Allocate `interpreter`'s tensors and run it once on zeros.

    Args:
        interpreter: An `ai_edge_litert.interpreter.Interpreter`.

    Raises:
        RuntimeError: If tensors cannot be allocated or an operator fails.
        ValueError: If the file is inconsistent.
    """
    details = interpreter.get_input_details()
    if not any(size == -1 for d in details for size in d["shape_signature"][1:]):
        _run(interpreter, details, None)
        return
    for free in _FREE_SIZES:
        try:
            _run(interpreter, details, free)
            return
        except (RuntimeError, ValueError):
            if free == _FREE_SIZES[-1]:
                raise


def _run(interpreter: Any, details: list[dict[str, Any]], free: int | None) -> None:
    for detail in details if free is not None else ():
        shape = [1 if i == 0 else free for i in range(len(detail["shape_signature"]))]
        fixed = [int(s) if s != -1 else f for s, f in zip(detail["shape_signature"], shape)]  # noqa: B905
        interpreter.resize_tensor_input(detail["index"], fixed)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    for detail in interpreter.get_output_details():
        interpreter.get_tensor(detail["index"])


def _resident(key: str) -> int | None:
    """Return an entry of this process's status in bytes; Linux only."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration, ValueError):
        return None


def _highest() -> int | None:
    """Return the largest resident memory of this process so far, in bytes."""
    found = _resident("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _start() -> int | None:
    """Let the count of the largest memory begin anew where the system can, and return it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _highest()
    return _resident("VmRSS")


if __name__ == "__main__":
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = (
        OpResolverType.AUTO
        if sys.argv[2] == "xnnpack"
        else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    before = _start()
    try:
        run_once(
            Interpreter(
                model_path=sys.argv[1], num_threads=1, experimental_op_resolver_type=resolver
            )
        )
    except (RuntimeError, ValueError, TypeError) as error:
        print(error)
        sys.exit(3)
    after = _highest()
    print(json.dumps(None if before is None or after is None else max(after - before, 0)))
