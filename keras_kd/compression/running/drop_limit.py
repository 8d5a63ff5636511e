"""How much a stage may cost: points of a metric on the validation data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.compression.running.stage_record import first_metric
from keras_kd.compression.running.teaching import as_dataset, evaluate_batches
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import TaughtInputs, student_inputs
from keras_kd.distilling.trainer import direction_of
from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.system.arguments import number
from keras_kd.system.json_values import history_value
from keras_kd.system.names import one_of
from keras_kd.system.user_warning import warn_user


@dataclasses.dataclass(frozen=True)
class DropLimit:
    """The limit of `compress(..., max_drop=...)`.

    Attributes:
        points: Points that may be lost, hundredths of the metric.
        retries: How often a stage is tried again, more gently.
    """

    points: float
    retries: int


def check_limit(
    max_drop: Any, reference: Any, retries: Any, validation_data: Any, has_metrics: bool
) -> DropLimit | None:
    """Return the limit, or `None` without one.

    Raises:
        ValueError: If an argument is out of range, or there is nothing to measure a drop by.
    """
    one_of("reference", reference, ("student", "teacher"))
    number("retries", retries, least=0, whole=True)
    if max_drop is None:
        return None
    number(
        "max_drop",
        max_drop,
        least=0,
        advice="It counts points, hundredths of the first metric: 1.0 allows 92 % after 93 %.",
    )
    if validation_data is None or not has_metrics:
        raise ValueError(
            "`max_drop` is measured by the first metric on the validation data: pass "
            '`validation_data` to `compress` and metrics=["accuracy"] to distiller.compile.'
        )
    return DropLimit(float(max_drop), retries)


def check_direction(metrics: Any, name: str | None) -> None:
    """Refuse to limit the drop of a metric of which less is better; warn if that is not known.

    Args:
        metrics: The metrics, after they were used once.
        name: The name of the metric.

    Raises:
        ValueError: If less of it is better, or it is not one number.
    """
    first = _first(metrics)
    if first is None:
        return
    direction = direction_of(first)
    if direction is None:
        warn_user(
            f"`max_drop` takes more of '{name}' for better; Keras does not know whether it is. If "
            "less is better, put another metric first in distiller.compile(metrics=[...])."
        )
    if direction == "down":
        raise ValueError(
            f"`max_drop` needs a metric of which more is better, but the first one is "
            f"'{name}'. Put another one first in distiller.compile(metrics=[...])."
        )
    if isinstance(history_value(first.result()), list):
        raise ValueError(
            f"`max_drop` needs a metric that is one number, but the first one is '{name}', which "
            "has several. Put another one first in distiller.compile(metrics=[...])."
        )


def _first(metrics: Any) -> Any:
    # Not found by its name: with several outputs, Keras puts that of the output before it.
    return next(iter(getattr(metrics, "metrics", [])), None)


def drop_of(
    metrics: Mapping[str, float],
    reference: Mapping[str, float] | None,
    used: Any = None,
    limited: bool = True,
) -> float | None:
    """Return the points by which the first metric is worse than that of the reference, or `None`.

    A resumed run may have another name for it: Keras numbers those that it names itself.

    Args:
        metrics: Values by name.
        reference: Those of the reference, or `None`.
        used: The metrics, after they were used once. Defaults to `None`.
        limited: Whether more is taken for better where that is not known. Defaults to `True`.
    """
    name, before = first_metric(metrics), first_metric(reference or {})
    if name is None or before is None or reference is None:
        return None
    if name in reference:
        before = name
    elif re.sub(r"_\d+$", "", name) != re.sub(r"_\d+$", "", before):
        return None
    direction = None if (first := _first(used)) is None else direction_of(first)
    if direction is None and not limited:
        return None
    lost = 100.0 * (reference[before] - metrics[name])
    return -lost if direction == "down" else lost


def evaluate_teacher(distiller: Any, data: Any) -> dict[str, float]:
    """Return the metrics of the teacher.

    Args:
        distiller: The distiller.
        data: Data with labels, as batches.

    Raises:
        ValueError: If there is no teacher, and the data contain no outputs of one.
    """
    metrics = distiller.compile_arguments.fresh().metrics_object()

    def step(x: Any, y: Any, sample_weight: Any) -> None:
        if distiller.objective.teacher is None and not isinstance(x, TaughtInputs):
            raise ValueError(
                'reference="teacher" needs the teacher: set `distiller.teacher = teacher`, or '
                'write reference="student".'
            )
        if isinstance(x, TaughtInputs):
            outputs = distiller.objective.taught_signals(x).outputs
        else:
            outputs = distiller.objective.teacher(student_inputs(x), training=False)
        # Counted where the student is counted: a cache, a file or a function has no mask.
        student = keras.tree.flatten(distiller.student(student_inputs(x), training=False))
        flat = keras.tree.flatten(outputs)
        for output, like in zip(flat, student, strict=False):
            set_keras_mask(output, get_keras_mask(like))
        metrics.update_state(class_labels(y), outputs, sample_weight)

    evaluate_batches(step, as_dataset(data))
    return {name: history_value(value) for name, value in metrics.result().items()}
