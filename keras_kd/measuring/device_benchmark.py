"""What a phone or a board measured of a file, read from the output of other tools."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import statistics
from collections.abc import Mapping
from typing import Any

from keras_kd.system.arguments import is_number
from keras_kd.system.reading import parse_json, read_text

_RUNS = re.compile(r"\bcount=(\d+)\b(.*)")
_VALUE = re.compile(r"(\w+)=(\d[\d.]*(?:e[+-]?\d+)?)")
_LOADING = re.compile(r"Inference timings in us: Init: (\d[\d.]*(?:e[+-]?\d+)?)")
_MEMORY = re.compile(r"emory footprint.*\(MB\).*\boverall=(\d[\d.]*)")
_DELEGATED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)(?:.* subgraph (\d+))?"
)


@dataclasses.dataclass(frozen=True)
class DeviceBenchmark:
    """The measurements of a file on a device.

    Attributes:
        path: The file with the tool's output.
        device: The device, as the caller names it.
        tool: `"benchmark_model"` or `"qai_hub"`.
        latency_ms: Median latency of a run, in milliseconds, or `None` if the tool does not
            report it.
        latency_mean_ms: Their mean; for AI Hub without single runs, its estimate.
        latency_min_ms: The shortest run, or `None`.
        latency_max_ms: The longest run, or `None`.
        latency_runs: How many runs were timed, or `None`.
        loading_ms: How long loading took, or `None`.
        peak_memory_bytes: The memory that the run took at most, in bytes, or `None`.
        operators: How many operators ran where, as `{"NPU": 7, "CPU": 2}` or
            `{"TfLiteXNNPackDelegate": 20, "CPU": 1}`; empty if the tool does not report it.
    """

    path: str
    device: str
    tool: str
    latency_ms: float | None
    latency_mean_ms: float
    latency_min_ms: float | None
    latency_max_ms: float | None
    latency_runs: int | None
    loading_ms: float | None
    peak_memory_bytes: int | None
    operators: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict which `json.dumps` accepts."""
        return dataclasses.asdict(self)


def read_device_benchmark(path: str | os.PathLike[str], device: str) -> DeviceBenchmark:
    """Read the measurements of a file on a phone or a board.

    Two outputs are read: the text which LiteRT's `benchmark_model` prints (on Android
    `adb shell /data/local/tmp/benchmark_model --graph=... > phone.txt`), and the JSON of a profile
    job of Qualcomm AI Hub (`json.dump(profile_job.download_profile(), file)`).

    Args:
        path: The file with the output.
        device: The name of the device, for tables. Neither output has it.

    Returns:
        A `DeviceBenchmark`.

    Raises:
        OSError: If there is no file at `path`.
        ValueError: If it holds neither output, or the run in it did not end.

    Example:

    ```python
    phone = keras_kd.read_device_benchmark("phone.txt", device="Pixel 9")
    print(phone.latency_ms, phone.operators)
    ```
    """
    text = read_text(path)
    is_json = text.lstrip().startswith("{")
    measured = _of_qai_hub(parse_json(text, path)) if is_json else _of_benchmark_model(text)
    if measured is None:
        raise ValueError(
            f"'{path}' holds neither the output of one run of benchmark_model to its end nor a "
            f"profile of Qualcomm AI Hub. Received: {text[:80]!r}."
        )
    return DeviceBenchmark(path=os.fspath(path), device=device, **measured)


def _of_benchmark_model(text: str) -> dict[str, Any] | None:
    if len(_LOADING.findall(text)) > 1:  # runs that were appended to one file
        return None
    if (loading := _LOADING.search(text)) is None:
        return None
    # Before it stand the warm-up runs and those that count; after it, operators may be timed too.
    runs = _RUNS.findall(text[: loading.start()])
    if not runs:
        return None
    count, rest = runs[-1]
    values = {name: float(value) / 1e3 for name, value in _VALUE.findall(rest)}
    mean = values.get("avg", values.get("curr"))
    if mean is None:
        return None
    memory = _MEMORY.search(text)
    operators: collections.Counter[str] = collections.Counter()
    graphs: dict[str, int] = {}
    for taken, number, delegate, graph in _DELEGATED.findall(text):
        operators[delegate] += int(taken)
        # A second delegate counts what the first one took as one node.
        graphs.setdefault(graph, int(number))
    operators["CPU"] = sum(graphs.values()) - operators.total()
    return {
        "tool": "benchmark_model",
        "latency_ms": values.get("median", mean if int(count) == 1 else None),
        "latency_mean_ms": mean,
        "latency_min_ms": values.get("min"),
        "latency_max_ms": values.get("max"),
        "latency_runs": int(count),
        "loading_ms": float(loading[1]) / 1e3,
        "peak_memory_bytes": None if memory is None else round(float(memory[1]) * 2**20),
        "operators": dict(+operators),
    }


def _of_qai_hub(profile: Mapping[str, Any]) -> dict[str, Any] | None:
    summary = profile.get("execution_summary")
    mean = summary.get("estimated_inference_time") if isinstance(summary, Mapping) else None
    if not isinstance(summary, Mapping) or not is_number(mean):
        return None
    times = [time / 1e3 for time in summary.get("all_inference_times") or () if is_number(time)]
    loading, memory = summary.get("warm_load_time"), summary.get("estimated_inference_peak_memory")
    units = [
        str(part.get("compute_unit", "unknown"))
        for part in profile.get("execution_detail") or ()
        if isinstance(part, Mapping)
    ]
    return {
        "tool": "qai_hub",
        "latency_ms": statistics.median(times) if times else None,
        "latency_mean_ms": statistics.mean(times) if times else mean / 1e3,
        "latency_min_ms": min(times, default=None),
        "latency_max_ms": max(times, default=None),
        "latency_runs": len(times) or None,
        "loading_ms": loading / 1e3 if is_number(loading) else None,
        "peak_memory_bytes": int(memory) if is_number(memory) else None,
        "operators": dict(collections.Counter(units)),
    }
