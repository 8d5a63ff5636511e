"""The result of a stage: its figures, and the table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.compression.running.student_files import numbers_from_json
from keras_kd.compression.stages.layer_record import kernel_values, zero_fraction
from keras_kd.system.text_table import text_table


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One stage of a compression, or the student before the first one.

    Attributes:
        name: The stage's name; `"student"` before the first.
        stage: Its class; `""` before the first.
        config: Its configuration, that of the attempt which was kept.
        outcome: `"before"`, `"done"`, `"done more gently"` or `"left out"`.
        epochs: Number of epochs that were trained.
        metrics: Loss and metrics on the validation data; empty without validation data.
        metric: The metric that `drop` is of: the first one that the distiller was compiled with.
        drop: Points (hundredths of the metric) lost against the reference of `compress`, or
            `None` without validation data or metrics.
        parameters: Number of parameters, zeros included.
        nonzero_parameters: Number of parameters, without the zeros among the weights of two and
            more axes.
        sparsity: Fraction of zeros among the weights of two and more axes.
        seconds: How long the stage took, all attempts together.
        attempts: The attempts that were given up, as `{"config", "metrics", "drop"}`.
    """

    name: str
    stage: str
    config: Mapping[str, Any]
    outcome: str
    epochs: int
    metrics: Mapping[str, float]
    metric: str | None
    drop: float | None
    parameters: int
    nonzero_parameters: int
    sparsity: float
    seconds: float
    attempts: Sequence[Mapping[str, Any]] = ()

    @property
    def value(self) -> float | None:
        """The value of `metric`, or `None`."""
        return None if self.metric is None else self.metrics.get(self.metric)

    @property
    def nonzero(self) -> int:
        """The earlier name of `nonzero_parameters`."""
        return self.nonzero_parameters


def counts(model: Any, parameters: int) -> dict[str, Any]:
    """Return `parameters`, `nonzero_parameters` and `sparsity` of a student.

    Zeros count in weights of two and more axes, which stages make zero: a bias or the offset of a
    normalization that happens to be zero is a parameter like others. A weight that several layers
    hold counts once.

    Args:
        model: The student.
        parameters: The number of its parameters.
    """
    kernels = kernel_values(model)
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    return {
        "parameters": parameters,
        "nonzero_parameters": parameters - zeros,
        "sparsity": zero_fraction(kernels) or 0.0,
    }


def first_metric(metrics: Mapping[str, float]) -> str | None:
    """Return the name of the first metric that is not a loss."""
    return next((name for name in metrics if name != "loss"), None)


def stage_line(record: StageRecord) -> str:
    """Return what came out of a stage, in one line."""
    parts = []
    if record.value is not None:
        drop = "" if record.drop is None else f" ({_signed(-record.drop)} points)"
        parts.append(f"{record.metric} {record.value:.4f}{drop}")
    parts += [f"{record.parameters:,} parameters", f"{record.nonzero_parameters:,} not zero"]
    parts.append(f"{record.seconds:.0f} s")
    return ", ".join(parts)


def stage_table(records: Sequence[StageRecord]) -> str:
    """Return the table of some stages as text, columns aligned."""
    metric = next((record.metric for record in records if record.metric), None)
    rows = [("stage", "epochs", metric or "metric", "points", "parameters", "not zero", "seconds")]
    for record in records:
        title = record.name if record.outcome in ("before", "done") else (
            f"{record.name}, {record.outcome}"
        )  # fmt: skip
        rows.append(
            (
                title,
                "–" if record.outcome == "before" else str(record.epochs),
                "–" if record.value is None else f"{record.value:.4f}",
                "–" if record.drop is None else _signed(-record.drop),
                f"{record.parameters:,}",
                f"{record.nonzero_parameters:,}",
                f"{record.seconds:.1f}",
            )
        )
    return text_table(rows)


def _signed(points: float) -> str:
    text = f"{abs(points):.2f}"
    return f"−{text}" if points < 0 and float(text) else f"+{text}"


def record_from_json(content: Mapping[str, Any]) -> StageRecord:
    """Make a record again from what `dataclasses.asdict` and JSON made of it."""
    entries = {("nonzero_parameters" if k == "nonzero" else k): v for k, v in content.items()}
    entries["metrics"] = numbers_from_json(content["metrics"])
    entries["attempts"] = tuple(
        {**attempt, "metrics": numbers_from_json(attempt["metrics"])}
        for attempt in content["attempts"]
    )
    if "reference" in content["config"] and content["outcome"] == "before":
        reference = numbers_from_json(content["config"]["reference"])
        entries["config"] = {**content["config"], "reference": reference}
    return StageRecord(**entries)
