"""One distillation loss on one batch: finding what it compares, and calling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_kd.distilling.hints import Hint
from keras_kd.distilling.keras_losses import compute_keras_loss
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.models.structures import at, leaves
from keras_kd.system.names import snake_case


def evaluate_loss(
    loss: Any,
    teacher_outputs: Any,
    teacher_features: Mapping[str, Any],
    y: Any,
    y_pred: Any,
    features: Mapping[str, Any],
    sample_weight: Any = None,
    output_names: Sequence[str] | None = None,
) -> Any:
    """Return the value of one element of `distillation_losses`, a scalar.

    Args:
        loss: A hint, a loss on the outputs, a structure of losses like the outputs', or a loss of
            `keras.distillation`.
        teacher_outputs: The teacher's outputs.
        teacher_features: The teacher's features by the path of their layer.
        y: Labels, or `None`.
        y_pred: The student's outputs.
        features: The student's features by the path of their layer.
        sample_weight: Weights of the samples, or a structure of them like the outputs'.
            Defaults to `None`.
        output_names: The names of the student's outputs, by which labels and weights may be
            keyed. Defaults to `None`.
    """
    # Weights given output by output say nothing of a feature that the outputs share.
    shared_weight = None if keras.tree.is_nested(sample_weight) else sample_weight
    if isinstance(loss, Hint):
        return loss(
            [teacher_features[path] for path in loss.teacher_paths],
            [features[path] for path in loss.student_paths],
            labels=y,
            sample_weight=shared_weight,
        )
    if isinstance(loss, keras.distillation.DistillationLoss):
        teacher_layer = getattr(loss, "teacher_layer_name", None)
        student_layer = getattr(loss, "student_layer_name", None)
        return compute_keras_loss(
            loss,
            teacher_features[teacher_layer] if teacher_layer else teacher_outputs,
            features[student_layer] if student_layer else y_pred,
            shared_weight,
        )
    if isinstance(loss, DistillationLoss):
        return loss(teacher_outputs, y_pred, labels=y, sample_weight=sample_weight)
    total = ops.zeros((), "float32")
    for part, path in leaves(loss):
        if part is not None:
            total += part(
                at(teacher_outputs, path),
                at(y_pred, path),
                labels=_of_output(y, path, output_names),
                sample_weight=_of_output(sample_weight, path, output_names),
            )
    return total


def _of_output(values: Any, path: tuple[Any, ...], names: Sequence[str] | None) -> Any:
    return at(values, path, names) if keras.tree.is_nested(values) else values


def layer_paths_of(losses: Sequence[Any], side: str) -> list[str]:
    """Return the layers that the losses read of one side, `"teacher"` or `"student"`."""
    paths: list[str] = []
    for loss in losses:
        if isinstance(loss, Hint):
            paths += loss.teacher_paths if side == "teacher" else loss.student_paths
        elif getattr(loss, f"{side}_layer_name", None):
            paths.append(getattr(loss, f"{side}_layer_name"))
    return list(dict.fromkeys(paths))


def unique_names(losses: Sequence[Any]) -> list[str]:
    """Return a name for every loss, numbered from the second of the same name on.

    The names of the sums in the logs are taken: they would be overwritten.
    """
    taken = ["loss", "student_loss", "distillation_loss"]
    names: list[str] = []
    for loss in losses:
        parts = [part for part, _ in leaves(loss) if part is not None]
        first = parts[0] if parts else loss
        name = getattr(first, "name", None) or snake_case(type(first).__name__)
        unique, count = name, 1
        while unique in [*taken, *names]:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return names
