"""What an Arm Ethos-U makes of a TFLite file, estimated by Arm's compiler Vela."""

from __future__ import annotations

import collections
import csv
import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from keras_kd.litert.runtime import LiteRuntime
from keras_kd.system.names import one_of, suggests_arguments

DEVICES = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256",
    "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip
_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class DeviceCost:
    """The estimated cost of a file on a device.

    Attributes:
        path: The file.
        device: The accelerator, as `"ethos-u55-128"`: 128 multiplications per cycle.
        system_config: Vela's name of the clock and the memories that the figures are for.
        memory_mode: Vela's name of what lies in which memory.
        clock_mhz: The clock of the accelerator, in MHz.
        operators: How many operators the file has.
        npu_operators: How many of them run on the accelerator.
        cpu_operators: How often each operator occurs that is left to the processor, such as
            `{"QUANTIZE": 1}`. The processor must have a kernel for each.
        macs: Multiply-accumulate operations of a run on the accelerator.
        cycles: Estimated cycles of a run, of the accelerator alone.
        latency_ms: The same in milliseconds. The time of operators on the processor is not
            included.
        sram_bytes: On-chip memory in use, in bytes.
        dram_bytes: Off-chip memory in use, in bytes.
        flash_bytes: Read-only memory in use, in bytes: weights, and the program for the
            accelerator.
        vela_version: The version of Vela that estimated them.
    """

    path: str
    device: str
    system_config: str
    memory_mode: str
    clock_mhz: float
    operators: int
    npu_operators: int
    cpu_operators: dict[str, int]
    macs: int
    cycles: int
    latency_ms: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    vela_version: str

    @property
    def npu_share(self) -> float:
        """Share of the operators that run on the accelerator, between 0 and 1."""
        return self.npu_operators / self.operators if self.operators else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes, and `npu_share`, as a dict which `json.dumps` accepts."""
        return {**dataclasses.asdict(self), "npu_share": self.npu_share}

    def rows(self) -> list[tuple[str, str]]:
        """Return what is shown of it, as pairs of a name and a text."""
        if not self.npu_operators:
            return [("on the NPU", "nothing: it takes integer operators only; export int8")]
        left = ", ".join(f"{name} x{count}" for name, count in self.cpu_operators.items())
        memories = {"SRAM": self.sram_bytes, "DRAM": self.dram_bytes, "flash": self.flash_bytes}
        used = ", ".join(f"{size:,} bytes of {name}" for name, size in memories.items() if size)
        return [
            ("on the NPU", f"{self.npu_operators} of {self.operators} operators"),
            ("on the CPU", left or "nothing"),
            ("memory", used or "none"),
            ("estimate", f"{self.cycles:,} cycles, {self.latency_ms:.3g} ms (the NPU alone)"),
        ]

    def __str__(self) -> str:
        """Return a few readable lines."""
        title = f"{self.path} on {self.device} ({self.system_config}, {self.memory_mode})"
        return "\n".join([title, *(f"{name:<15} {text}" for name, text in self.rows())])


@suggests_arguments
def device_cost(
    path: str | os.PathLike[str],
    device: str,
    *,
    system_config: str | None = None,
    memory_mode: str | None = None,
) -> DeviceCost:
    """Estimate the cost of a TFLite file on an Arm Ethos-U, before it is shipped.

    Arm's Vela compiles the file in a separate process, without a network or a device. Vela places
    each operator on the accelerator (NPU) or leaves it to the processor (CPU). An operator in
    floating point is always left to the processor. Cycles and memory are Vela's own estimates: they
    compare files, and are not a measurement of a board. Needs `ethos-u-vela` (`pip install
    "keras-kd[vela]"`).

    Args:
        path: The file.
        device: The accelerator and its multiplications per cycle: `"ethos-u55-32"`, `-64`, `-128`
            or `-256`, `"ethos-u65-256"` or `-512`, `"ethos-u85-128"`, `-256`, `-512`, `-1024` or
            `-2048`.
        system_config: Vela's name of the clock and the memories. Defaults to `None`: the one that
            Vela takes for the device; the result says which.
        memory_mode: Vela's name of what lies in which memory. Defaults to `None`, likewise.

    Returns:
        A `DeviceCost`.

    Raises:
        ImportError: If Vela is not installed.
        OSError: If there is no file at `path`.
        ValueError: If `device` is unknown, or if Vela does not compile the file.

    Example:

    ```python
    cost = keras_kd.device_cost("exports/student.tflite", "ethos-u55-128")
    print(cost.npu_share, cost.cpu_operators, cost.sram_bytes)
    ```
    """
    one_of("device", device, DEVICES)
    if importlib.util.find_spec("ethosu") is None:
        raise ImportError(
            "`device_cost` needs Arm's compiler Vela, which is not installed. "
            'Run: pip install "keras-kd[vela]".'
        )
    file = LiteRuntime(path, xnnpack=None).file
    options = [f"--accelerator-config={device}", "--verbose-performance"]
    for name, value in (("system-config", system_config), ("memory-mode", memory_mode)):
        options += [] if value is None else [f"--{name}={value}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        shutil.copyfile(path, folder / "model.tflite")
        done = subprocess.run(
            [sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir=out", *options],
            cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
        )  # fmt: skip
        summaries = list((folder / "out").glob("model_summary_*.csv"))
        if done.returncode or not summaries:
            cure = ""
            if "INT4" in file.tensor_types():
                cure = ' The file has weights of 4 bits. Export with quantization="int8".'
            raise ValueError(
                f"Vela does not compile '{path}' for {device}: {_reason(done)}. "
                f"Received: system_config={system_config!r}, memory_mode={memory_mode!r}.{cure}"
            )
        summary = _rows(summaries[0])[0]
        layers = _rows(folder / "out" / "model_per-layer.csv")
    left = collections.Counter(row["Original Operator"] for row in layers if row["Target"] == "CPU")
    operators = len(file.operators())

    def kibibytes(*memories: str) -> int:
        return round(1024 * sum(float(summary[f"{memory}_memory_used"]) for memory in memories))

    return DeviceCost(
        path=os.fspath(path),
        device=device,
        system_config=summary["system_config"],
        memory_mode=summary["memory_mode"],
        clock_mhz=float(summary["core_clock"]) / 1e6,
        operators=operators,
        npu_operators=operators - left.total(),
        cpu_operators=dict(left),
        macs=round(float(summary["nn_macs"])),
        cycles=round(float(summary["cycles_total"])),
        latency_ms=1000 * float(summary["inference_time"]),
        sram_bytes=kibibytes("sram"),
        dram_bytes=kibibytes("dram"),
        flash_bytes=kibibytes("on_chip_flash", "off_chip_flash"),
        vela_version=importlib.metadata.version("ethos-u-vela"),
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error at the end of what Vela printed, on one line, or how it ended."""
    if done.returncode < 0:
        return f"its process crashed (signal {-done.returncode})"
    lines = done.stderr.strip().splitlines()
    errors = [i for i, line in enumerate(lines) if "Error" in line.split(":")[0]]
    last = lines[errors[-1] if errors else -1 :]
    return " ".join(line.strip() for line in last).rstrip(".") or "it gave no reason"


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
