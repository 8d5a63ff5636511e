"""How long a TFLite file takes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import numpy as np

from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.result import BenchmarkResult
from keras_kd.system.arguments import number
from keras_kd.system.names import suggests_arguments


@suggests_arguments
def benchmark_tflite(
    path: str | os.PathLike[str],
    runs: int = 50,
    warmup: int = 10,
    threads: int = 1,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    xnnpack: bool | None = None,
) -> BenchmarkResult:
    """Measure the latency and memory of a TFLite file at batch 1 (or at its own fixed batch).

    Only the run itself is timed; inputs are written once. The ratio of two files is another on a
    phone: quantized kernels are optimized for Arm, and on an x86 machine an int8 transformer can be
    slower than the float file. To compare files, measure them side by side with
    `benchmark_tflite_files`.

    Args:
        path: The file.
        runs: How many runs are timed. Defaults to `50`.
        warmup: Number of warm-up runs. Defaults to `10`.
        threads: Number of threads. Defaults to `1`.
        inputs: Arrays by input name. Defaults to random inputs: normal numbers, and valid ids for
            integer inputs.
        xnnpack: Whether LiteRT's default delegate, XNNPACK, is used. Defaults to `None`: if the
            file loads with it.

    Returns:
        A `BenchmarkResult`: the median latency and its percentiles, and the peak memory.

    Raises:
        OSError: If there is no file at `path`.
        ValueError: If LiteRT cannot run it, or a number is too small; with `xnnpack=True`, also if
            it does not load with XNNPACK.

    Example:

    ```python
    print(keras_kd.benchmark_tflite("exports/student.tflite", threads=2).latency_ms)
    ```
    """
    number("runs", runs, least=1, whole=True)
    return measure([LiteRuntime(path, threads, xnnpack)], runs, warmup, inputs)[0]


@suggests_arguments
def benchmark_tflite_files(
    paths: Sequence[str | os.PathLike[str]],
    rounds: int = 50,
    warmup: int = 10,
    threads: int = 1,
    *,
    xnnpack: bool | None = None,
) -> dict[str, BenchmarkResult]:
    """Measure the latencies of several files side by side.

    In every round each file runs once, in turn, so that other load on the machine affects all of
    them. Report the ratio of two medians from one call.

    Args:
        paths: The files.
        rounds: How many timed runs each file has. Defaults to `50`.
        warmup: Number of warm-up rounds. Defaults to `10`.
        threads: Number of threads. Defaults to `1`.
        xnnpack: As for `benchmark_tflite`. Defaults to `None`.

    Returns:
        What `benchmark_tflite` returns, by path (as a string).

    Raises:
        OSError: If there is no file at one of the paths.
        ValueError: If `paths` is empty, LiteRT cannot run a file, or a number is too small.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise ValueError(f"`paths` must be a list of paths. Received: {paths!r}.")
    if not paths:
        raise ValueError("`paths` is empty. Pass at least one file.")
    number("rounds", rounds, least=1, whole=True)
    results = measure([LiteRuntime(path, threads, xnnpack) for path in paths], rounds, warmup)
    return {os.fspath(path): result for path, result in zip(paths, results, strict=True)}


def measure(
    runtimes: Sequence[LiteRuntime],
    rounds: int,
    warmup: int,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> list[BenchmarkResult]:
    """Time loaded files in turn; see `benchmark_tflite_files`."""
    number("warmup", warmup, least=0, whole=True)
    batches = []
    for runtime in runtimes:
        given = runtime.example_inputs() if inputs is None else inputs
        runtime.set_inputs(given)
        batches.append(len(next(iter(given.values()))))
    times = np.empty((rounds, len(runtimes)))
    for i in range(-warmup, rounds):
        for k, runtime in enumerate(runtimes):
            start = time.perf_counter_ns()
            runtime.invoke()
            if i >= 0:
                times[i, k] = (time.perf_counter_ns() - start) / 1e6
    return [
        BenchmarkResult(
            latency_ms=float(np.median(column)),
            latency_p90_ms=float(np.percentile(column, 90)),
            latency_p99_ms=float(np.percentile(column, 99)),
            latency_mean_ms=float(np.mean(column)),
            latency_min_ms=float(np.min(column)),
            latency_runs=rounds,
            latency_batch=batch,
            warmup=warmup,
            threads=runtime.threads,
            delegate=runtime.delegate,
            loads_with_xnnpack=runtime.probed.loads_with_xnnpack,
            peak_memory_bytes=runtime.probed.peak_memory_bytes,
        )
        for column, runtime, batch in zip(times.T, runtimes, batches, strict=True)
    ]
