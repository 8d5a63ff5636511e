"""Running a file in TensorFlow Lite for Microcontrollers, to see that it does and what it needs."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np

from keras_kd.export.micro import probe as micro_probe
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.system.own_process import run_script

# The wheel's records of a run; the first one is the sum of the two others.
_ALLOCATION = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one run showed.

    Attributes:
        arena_bytes: The smallest arena which it ran in.
        largest_difference: Largest absolute difference from LiteRT's outputs, in the outputs' own
            units, for one input of normal numbers (zeros for integer inputs).
        output_range: Largest absolute output of LiteRT for that input.
    """

    arena_bytes: int
    largest_difference: float
    output_range: float


def available() -> bool:
    """Return whether the package `tflite-micro` is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def run_trial(path: str | os.PathLike[str], estimated_arena: int) -> Trial:
    """Run a file in the interpreter for microcontrollers, on this machine's reference kernels.

    Args:
        path: A file which LiteRT runs.
        estimated_arena: About how many bytes its arena needs.

    Raises:
        ValueError: If the interpreter for microcontrollers does not run it.
    """
    runtime = LiteRuntime(path, xnnpack=False)
    example = runtime.example_inputs()
    expected = list(runtime.predict(example).values())
    with tempfile.TemporaryDirectory() as folder:
        inputs = pathlib.Path(folder) / "inputs.npz"
        np.savez(inputs, *runtime.in_file_types(example))
        code, report, outputs = _run(path, 4 * estimated_arena + 2**20, inputs, len(expected))
        if code != 0:
            raise ValueError(_refused(path, code, report))
        given = runtime.in_numbers(outputs)
        sizes = {name: int(value) for name, value in _ALLOCATION.findall(report)}
        arena = _smallest(path, sizes["total"], inputs)
    differences = [
        float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0))
        for a, b in zip(given, expected, strict=True)
    ]
    largest = [float(np.max(np.abs(b), initial=0.0)) for b in expected]
    return Trial(arena, max(differences, default=0.0), max(largest, default=0.0))


def _smallest(path: str | os.PathLike[str], recorded: int, inputs: pathlib.Path) -> int:
    # What is recorded leaves out memory which is only needed while the arena is laid out.
    sizes = [int(recorded * part) // 16 * 16 for part in (1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 4)]
    for size in sizes:
        code, report, _ = _run(path, size, inputs, 0)
        if code == 0:
            return size
    raise ValueError(_refused(path, code, report))


def _run(
    path: str | os.PathLike[str], arena: int, inputs: pathlib.Path, outputs: int
) -> tuple[int, str, list[np.ndarray]]:
    results = inputs.with_name("outputs.npz")
    arguments = [os.path.abspath(path), str(arena), str(inputs), str(results), str(outputs)]
    try:
        done = run_script(micro_probe.__file__, *arguments, seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"'{path}' did not end within {_SECONDS} seconds in TensorFlow Lite for "
            "Microcontrollers."
        ) from None
    arrays: list[np.ndarray] = []
    if done.returncode == 0:
        with np.load(results) as saved:
            arrays = [saved[str(i)] for i in range(outputs)]
    return done.returncode, done.stderr, arrays


def _refused(path: str | os.PathLike[str], code: int, report: str) -> str:
    reason = "; ".join(line.strip() for line in report.splitlines() if line.strip())[-1000:]
    if code < 0:
        reason = f"its interpreter crashed (signal {-code}). {reason}".strip()
    return f"TensorFlow Lite for Microcontrollers cannot run '{path}': {reason}"
