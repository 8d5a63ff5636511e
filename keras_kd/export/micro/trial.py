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
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.system.own_process import run_script

# The wheel's records of a run; the first one is the sum of the two others.
_ALLOCATION = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_SECONDS = 600


# Inputs that the outputs are compared for.
_SAMPLES = 8
# How far outputs may be apart, as a share of the largest one: floats by sums in another order, and
# integers by rounding in layer after layer (root mean square; or one quantization step).
_FLOAT, _INTEGER = 1e-4, 0.01


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a run showed.

    LiteRT has two kernels for many operators, optimized ones and reference ones, which round
    differently: the differences are from those which are nearer.

    Attributes:
        arena_bytes: The smallest arena which it ran in.
        max_difference: Largest absolute difference from LiteRT's outputs, in the outputs' own
            units, for some inputs of normal numbers (ids that exist for integer inputs).
        output_range: Largest absolute output of LiteRT for those inputs.
        differs: Whether an output differs by more than rounding.
        latency_ms: Median time of a sample, in milliseconds.
    """

    arena_bytes: int
    max_difference: float
    output_range: float
    differs: bool
    latency_ms: float


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
    runtimes = [LiteRuntime(path, xnnpack=False, reference=given) for given in (True, False)]
    runtime = runtimes[0]
    examples = [runtime.example_inputs(seed) for seed in range(_SAMPLES)]
    wanted = [_stacked([list(r.predict(e).values()) for e in examples]) for r in runtimes]
    with tempfile.TemporaryDirectory() as folder:
        inputs = pathlib.Path(folder) / "inputs.npz"
        np.savez(inputs, *(a for example in examples for a in runtime.in_file_types(example)))
        width = len(wanted[0])
        code, report, results = _run(path, 4 * estimated_arena + 2**20, inputs, runtime, width)
        if code != 0:
            raise ValueError(_refused(path, code, report))
        sizes = {name: int(value) for name, value in _ALLOCATION.findall(report)}
        arena = _smallest(path, sizes["total"], inputs, runtime)
    latency_ms = float(results.pop("milliseconds"))
    outputs = [results[f"arr_{i}"] for i in range(len(results))]
    starts = range(0, len(outputs), width)
    given = _stacked([runtime.in_numbers(outputs[i : i + width]) for i in starts])
    differences = [_difference(given, expected, _steps(runtime.file)) for expected in wanted]
    gap, differs = min(differences, key=lambda found: (found[1], found[0]))
    largest = max((float(np.max(np.abs(o), initial=0.0)) for o in wanted[0]), default=0.0)
    return Trial(arena, gap, largest, differs, latency_ms)


def _stacked(samples: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Return the outputs of several samples, one array for each output."""
    return [np.stack(output).astype(np.float64) for output in zip(*samples, strict=True)]


def _difference(
    given: list[np.ndarray], expected: list[np.ndarray], steps: list[float | None]
) -> tuple[float, bool]:
    """Return the largest difference, and whether one is more than rounding."""
    largest, differs = 0.0, False
    for ours, theirs, step in zip(given, expected, steps, strict=True):
        gap = np.abs(ours - theirs)
        size = float(np.max(np.abs(theirs), initial=0.0))
        if step is None:
            differs |= not np.max(gap, initial=0.0) <= _FLOAT * size
        else:
            differs |= not np.sqrt(np.mean(np.square(gap))) <= max(1.01 * step, _INTEGER * size)
        largest = max(largest, float(np.max(gap, initial=0.0)))
    return largest, differs


def _steps(file: ModelFile) -> list[float | None]:
    """Return the quantization step of every output, or `None` for each if all is float.

    Where an output is computed in float from integers, its step is 0.
    """
    operators = [operator for operator in file.operators() if not operator.graph]
    made = {i: operator for operator in operators for i in operator.output_indices}
    is_float = not any(operator.name == "QUANTIZE" for operator in operators)
    steps: list[float | None] = []
    for index in file.graph_outputs(0):
        maker = made.get(index)
        if maker is not None and maker.name == "DEQUANTIZE":
            index = maker.input_indices[0]
        step = file.describe_tensor(0, index)["scale"]
        steps.append(step or (None if is_float else 0.0))
    return steps


def _smallest(
    path: str | os.PathLike[str], recorded: int, inputs: pathlib.Path, runtime: LiteRuntime
) -> int:
    # What is recorded leaves out memory which is only needed while the arena is laid out.
    sizes = [int(recorded * part) // 16 * 16 for part in (1, 1.02, 1.05, 1.1, 1.25, 1.5, 2, 4)]
    for size in sizes:
        code, report, _ = _run(path, size, inputs, runtime, 0)
        if code == 0:
            return size
    raise ValueError(_refused(path, code, report))


def _run(
    path: str | os.PathLike[str],
    arena: int,
    inputs: pathlib.Path,
    runtime: LiteRuntime,
    outputs: int,
) -> tuple[int, str, dict[str, np.ndarray]]:
    kept = inputs.with_name("outputs.npz")
    count = str(len(runtime.inputs))
    arguments = [os.path.abspath(path), str(arena), str(inputs), count, str(kept), str(outputs)]
    try:
        done = run_script(micro_probe.__file__, *arguments, seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"'{path}' did not end within {_SECONDS} seconds in TensorFlow Lite for "
            "Microcontrollers."
        ) from None
    results: dict[str, np.ndarray] = {}
    if done.returncode == 0:
        with np.load(kept) as saved:
            results = dict(saved)
    return done.returncode, done.stderr, results


def _refused(path: str | os.PathLike[str], code: int, report: str) -> str:
    reason = "; ".join(line.strip() for line in report.splitlines() if line.strip())[-1000:]
    if code < 0:
        reason = f"its interpreter crashed (signal {-code}). {reason}".strip()
    return f"TensorFlow Lite for Microcontrollers cannot run '{path}': {reason}"
