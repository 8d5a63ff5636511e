"""What `evaluate_tflite` and `benchmark_tflite` measured of one file."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_kd.measuring.device_cost import DeviceCost

# What `benchmark_tflite` called otherwise when it returned a dict.
_OLD_NAMES = {
    "median_ms": "latency_ms", "p90_ms": "latency_p90_ms", "p99_ms": "latency_p99_ms",
    "mean_ms": "latency_mean_ms", "min_ms": "latency_min_ms", "runs": "latency_runs",
    "batch": "latency_batch",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What `benchmark_tflite` measured of one file.

    The names are those of `TFLiteResult`. `result["median_ms"]` and the other keys of the former
    dict still work.

    Attributes:
        latency_ms: Median latency of a run, in milliseconds.
        latency_p90_ms: 90th percentile of the same.
        latency_p99_ms: 99th percentile of the same.
        latency_mean_ms: Their mean.
        latency_min_ms: The shortest run.
        latency_runs: How many runs were timed.
        latency_batch: Batch size of these runs: 1, or the fixed one of the file.
        warmup: Number of warm-up runs.
        threads: Number of threads.
        delegate: What ran the operators.
        loads_with_xnnpack: Whether the file loads and runs with LiteRT's default delegate.
        peak_memory_bytes: By how much the memory of a fresh process grows at most while it loads
            the file (with XNNPACK if it loads so) and runs it once on one thread, or `None` if
            the system does not report it.
    """

    latency_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    latency_mean_ms: float
    latency_min_ms: float
    latency_runs: int
    latency_batch: int
    warmup: int
    threads: int
    delegate: str
    loads_with_xnnpack: bool
    peak_memory_bytes: int | None

    def __getitem__(self, name: str) -> Any:
        """Return an attribute by its name, or by the name that it had before."""
        names = {field.name for field in dataclasses.fields(self)}
        if (name := _OLD_NAMES.get(name, name)) not in names:
            raise KeyError(name)
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict which `json.dumps` accepts."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TFLiteResult:
    """What `evaluate_tflite` measured of one file.

    Attributes:
        path: The file.
        samples: How many samples were run.
        output: Name of the output that accuracy, agreement and the figures per class refer to.
        task: The task of that output: `"classification"` (one class per sample or position),
            `"multilabel"` (yes or no per unit) or `"regression"`.
        accuracy: Share of right answers (of right units, if multi-label); `None` for data without
            labels and for regression.
        model_accuracy: The same of the Keras model, or `None` without a model.
        agreement: Share of samples (positions, for dense prediction; units, if multi-label) for
            which the file and the Keras model give the same answer; `None` without a model and for
            regression.
        max_difference: Largest absolute difference between the outputs of the two, or `None`, also
            for outputs that hold classes.
        mean_difference: Mean absolute difference between the outputs of the two, or `None`.
        metrics: The values of the requested Keras metrics, by their names in Keras.
        per_class: One dict for every class, in order: `label` (its index), `samples`, `accuracy`
            (the share of its samples which the file gets right: recall) and `precision` (the share
            of the answers of this class which are right), `None` if the divisor is zero.
            `None` without labels, for regression, and above 1000 classes.
        confusion: Samples by label (row) and answer (column). `None` where `per_class` is, if
            multi-label, and above 200 classes.
        calibration: `expected_calibration_error` (Guo et al., 2017, arXiv:1706.04599) and `bins`: a
            list of `low`, `high`, `samples`, `confidence` and `accuracy` (the means of each bin, or
            `None` where it is empty). Confidence is the probability of the answer that was given:
            the softmax (or sigmoid) of logits, or the output itself where the file gives
            probabilities. `None` without labels and where the task is not classification.
        bytes: Size of the file.
        zipped_bytes: Size of a zip archive with the file in it.
        parameters: How many numbers the file stores in tensors of more than one element: weights,
            biases, tables.
        macs: Multiply-accumulate operations of one sample, counted from the file's own operators:
            convolutions, fully connected and recurrent operators and matrix products, in loops as
            often as these run.
        macs_not_counted: Operators that may multiply and are not in `macs`, with the reason.
        latency_ms: Median latency of a run at batch `latency_batch`, in milliseconds.
        latency_p90_ms: 90th percentile of the same.
        latency_p99_ms: 99th percentile of the same.
        latency_without_xnnpack_ms: Median latency with LiteRT's own kernels only.
        latency_runs: How many runs were timed, after warm-up.
        latency_batch: Batch size of these runs: 1, or the fixed one of the file.
        threads: Number of threads.
        delegate: What ran the operators.
        loads_with_xnnpack: Whether the file loads and runs with LiteRT's default delegate. If not,
            everything was measured without it.
        xnnpack_error: Why it does not, or `None`.
        peak_memory_bytes: By how much the memory of a fresh process grows at most while it loads
            the file and runs it once, on one thread, at the smallest batch (sizes that the file
            leaves open are 64): weights, tensors, and the parts of the LiteRT library which this
            file needs, about 3 MB. `None` if the system does not report it.
        operators: How often each operator occurs.
        operator_types: For each operator, how often it occurs with each type of numbers, as
            `{"CONV_2D": {"INT8": 4}}`; `"FLOAT32 (INT8 weights)"` where its weights are of
            another type than its output.
        float_operators: How often each operator occurs which computes in floating point.
        inputs: Name, shape, dtype, scale and zero point of every input.
        outputs: The same of every output.
        tensor_types: How many tensors there are of each type.
        constants: How many numbers (weights, biases, tables) the file stores.
        zero_constants: How many of them are zero.
        constant_types: How many of them are of each type.
        sparse_tensors: How many tensors are stored in a sparse encoding.
        device_cost: The estimate of `keras_kd.device_cost` for the requested device, or `None`.
    """

    path: str
    samples: int
    output: str
    task: str
    accuracy: float | None
    model_accuracy: float | None
    agreement: float | None
    max_difference: float | None
    mean_difference: float | None
    metrics: dict[str, float]
    per_class: list[dict[str, Any]] | None
    confusion: list[list[int]] | None
    calibration: dict[str, Any] | None
    bytes: int
    zipped_bytes: int
    parameters: int
    macs: int
    macs_not_counted: dict[str, str]
    latency_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    latency_without_xnnpack_ms: float | None
    latency_runs: int
    latency_batch: int
    threads: int
    delegate: str
    loads_with_xnnpack: bool
    xnnpack_error: str | None
    peak_memory_bytes: int | None
    operators: dict[str, int]
    operator_types: dict[str, dict[str, int]]
    float_operators: dict[str, int]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    tensor_types: dict[str, int]
    constants: int
    zero_constants: int
    constant_types: dict[str, int]
    sparse_tensors: int
    device_cost: DeviceCost | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros among the stored numbers."""
        return self.zero_constants / self.constants if self.constants else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes, and `sparsity`, as a dict which `json.dumps` accepts."""
        cost = None if self.device_cost is None else self.device_cost.to_dict()
        return {**dataclasses.asdict(self), "device_cost": cost, "sparsity": self.sparsity}

    def __str__(self) -> str:
        """Return a few readable lines."""
        rows = [
            *self._quality(),
            ("size", f"{self.bytes:,} bytes, {self.zipped_bytes:,} zipped"),
            *self._cost(),
            ("constants", f"{self.constants:,}, {self.sparsity:.1%} of them zero"),
            ("operators", ", ".join(f"{name} x{n}" for name, n in self.operators.items())),
        ]
        if self.device_cost is not None:
            rows.append(("device", self.device_cost.device))
            rows += self.device_cost.rows()
        return "\n".join([self.path, *(f"{name:<15} {text}" for name, text in rows)])

    def _counted(self) -> str:
        """Return what the accuracy is a share of."""
        samples = f"{self.samples:,} samples"
        answers = sum(entry["samples"] for entry in self.per_class or ())
        if self.task != "classification" or answers in (0, self.samples):
            return samples
        return f"{answers:,} positions in {samples}"

    def _quality(self) -> list[tuple[str, str]]:
        rows = []
        if self.accuracy is not None:
            text = f"{self.accuracy:.2%} of {self._counted()}"
            if len(self.outputs) > 1:
                text += f", output '{self.output}'"
            if self.model_accuracy is not None:
                text += f" (the Keras model: {self.model_accuracy:.2%})"
            rows.append(("accuracy", text))
        for name, value in self.metrics.items():
            # A metric of Keras may have another threshold, or weights.
            rows.append((f"{name} (Keras)" if name == "accuracy" else name, f"{value:.6g}"))
        if self.calibration is not None:
            error = self.calibration["expected_calibration_error"]
            rows.append(("calibration", f"error {error:.2%} (expected calibration error)"))
        if self.max_difference is not None:
            differ = (
                f"outputs differ by {self.mean_difference:.2g}, at most {self.max_difference:.2g}"
            )
            if self.agreement is None:
                rows.append(("difference", f"{differ}, from the Keras model"))
            else:
                rows.append(("agreement", f"{self.agreement:.2%} with the Keras model ({differ})"))
        return rows

    def _cost(self) -> list[tuple[str, str]]:
        macs = f"{self.macs:,} a sample"
        if self.macs_not_counted:
            macs += f", without {', '.join(self.macs_not_counted)}"
        rows = [("multiplications", macs)]
        rows.append(
            (
                "latency",
                f"{self.latency_ms:.3g} ms (median of {self.latency_runs}; 90 % within "
                f"{self.latency_p90_ms:.3g} ms, 99 % within {self.latency_p99_ms:.3g} ms; batch "
                f"{self.latency_batch}, threads: {self.threads}, delegate: {self.delegate})",
            )
        )
        if not self.loads_with_xnnpack:
            rows.append(("XNNPACK", f"fails with this file: {self.xnnpack_error}"))
        elif self.latency_without_xnnpack_ms is not None:
            rows.append(("without XNNPACK", f"{self.latency_without_xnnpack_ms:.3g} ms"))
        if self.peak_memory_bytes is not None:
            rows.append(("peak memory", f"{self.peak_memory_bytes:,} bytes"))
        return rows
