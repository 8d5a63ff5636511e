"""Load a TFLite file and run it once; run as a script, in a process which may crash.

It imports nothing of keras_kd, so that it starts in a fraction of a second, and so that its memory
is LiteRT's.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Tried in this order for dimensions of any size: convolutions need more than one position.
_FREE_SIZES = (64, 1)
# Tried in this order as made-up numbers; not every table has a row 1.
_KINDS = ("mixed", "ones", "zeros")


class InputsRefusedError(RuntimeError):
    """An operator failed on the numbers that it was given."""


def run_once(interpreter: Any, samples: Sequence[Sequence[np.ndarray]] = ()) -> None:
    """Allocate `interpreter`'s tensors and run it: on samples, or once on made-up numbers.

    Args:
        interpreter: An `ai_edge_litert.interpreter.Interpreter`.
        samples: Real inputs in the order of the file's, each of batch size 1. Defaults to none.

    Raises:
        InputsRefusedError: If an operator fails.
        RuntimeError: If tensors cannot be allocated.
        ValueError: If the file is inconsistent.
    """
    details = interpreter.get_input_details()
    before: list[tuple[int, ...]] | None = None
    for sample in samples:
        arrays = [filled(array, d) for array, d in zip(sample, details)]  # noqa: B905
        now = [array.shape for array in arrays]
        _run(interpreter, details, None if now == before else now, arrays)
        before = now
    if samples:
        return
    is_open = any(size == -1 for d in details for size in d["shape_signature"][1:])
    for free in _FREE_SIZES if is_open else (None,):
        shapes = [d["shape"] if free is None else _shape(d, free) for d in details]
        for kind in _KINDS:
            arrays = [made_up(d, s, kind) for d, s in zip(details, shapes)]  # noqa: B905
            try:
                _run(interpreter, details, shapes if is_open else None, arrays)
                return
            except (RuntimeError, ValueError):
                if free in (None, _FREE_SIZES[-1]) and kind == _KINDS[-1]:
                    raise


def _shape(detail: dict[str, Any], free: int) -> list[int]:
    signature = detail["shape_signature"]
    return [int(s) if s != -1 else (free if i else 1) for i, s in enumerate(signature)]


def made_up(detail: dict[str, Any], shape: Sequence[int], kind: str = "mixed") -> np.ndarray:
    """Return numbers that an input can take, in the type that it has in the file.

    Zeros alone would not do: to a text model they are padding, and a mean over what is no padding
    divides by zero.

    Args:
        detail: What the interpreter says of the input.
        shape: The shape.
        kind: `"mixed"`: integers are 1 and 0 in turn, as ids that every table holds, and other
            numbers lie between 0 and 2, or anywhere in a quantized input's range; `"ones"` or
            `"zeros"`.
    """
    dtype = np.dtype(detail["dtype"])
    if kind != "mixed" or dtype.kind not in "fiub":
        return np.full(shape, kind == "ones").astype(dtype)
    count = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    spread = count * 0.6180339887 % 1  # evenly over 0 to 1; numpy.random would count as memory
    if dtype.kind == "f":
        return (2 * spread).astype(dtype)
    if detail["quantization"][0]:
        limits = np.iinfo(dtype)
        return (limits.min + spread * (limits.max - limits.min)).astype(dtype)
    return ((count + 1) % 2).astype(dtype)


def filled(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Return a batch repeated to the size that an input is fixed to, or as it is."""
    size = detail["shape_signature"][0]
    return array if size < 1 else array[np.arange(size) % len(array)]


def quantize(array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Return an array in the type of an input or output, quantized with its scale if it has one."""
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if dtype.kind not in "iu" or not scale or array.dtype == dtype:
        return np.ascontiguousarray(array, dtype=dtype)
    limits = np.iinfo(dtype)
    scaled = np.round(array.astype(np.float64) / scale) + zero_point
    return np.clip(scaled, limits.min, limits.max).astype(dtype)


def _run(
    interpreter: Any,
    details: list[dict[str, Any]],
    shapes: Sequence[Sequence[int]] | None,
    arrays: Sequence[np.ndarray],
) -> None:
    for detail, shape in zip(details, shapes or ()):  # noqa: B905
        interpreter.resize_tensor_input(detail["index"], list(shape))
    interpreter.allocate_tensors()
    for detail, array in zip(details, arrays):  # noqa: B905
        interpreter.set_tensor(detail["index"], quantize(array, detail))
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise InputsRefusedError(str(error)) from None
    for detail in interpreter.get_output_details():
        check_not_empty(detail["name"], tuple(map(int, detail["shape_signature"])))
        interpreter.get_tensor(detail["index"])


def check_not_empty(name: str, shape: Sequence[int | None]) -> None:
    """Refuse an output without any numbers.

    Raises:
        ValueError: If a size is 0.
    """
    if 0 in shape:
        raise ValueError(
            f"The output '{name}' is empty: it holds no numbers to measure. Received: shape "
            f"{tuple(shape)}. Remove it from the model, and export that."
        )


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
    """Let the count of the largest memory start again where the system can, and return it."""
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
    samples = []
    if len(sys.argv) > 3:
        with np.load(sys.argv[3]) as saved:
            arrays = [saved[f"arr_{i}"] for i in range(len(saved.files))]
        width = len(arrays) // int(sys.argv[4])
        samples = [arrays[i : i + width] for i in range(0, len(arrays), width)]
    before = _start()
    try:
        interpreter = Interpreter(
            model_path=sys.argv[1], num_threads=1, experimental_op_resolver_type=resolver
        )
        run_once(interpreter, samples)
    except (RuntimeError, ValueError, TypeError) as error:
        print(error)
        sys.exit(4 if isinstance(error, InputsRefusedError) and not samples else 3)
    after = _highest()
    print(json.dumps(None if before is None or after is None else max(after - before, 0)))
