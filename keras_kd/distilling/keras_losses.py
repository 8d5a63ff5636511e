"""The losses of `keras.distillation`, computed on logits and in log space.

Keras resolves the names `"kl_divergence"` and `"categorical_crossentropy"` to functions of
probabilities and feeds them raw logits. Here they are what their documentation promises.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample
from keras_kd.models.structures import at, leaves

Base = keras.distillation.DistillationLoss
Logits = keras.distillation.LogitsDistillation
Feature = keras.distillation.FeatureDistillation


def is_known(loss: Any) -> bool:
    """Return whether a loss is Keras's own, and not a subclass with a computation of its own."""
    return isinstance(loss, (Logits, Feature)) and type(loss).compute_loss in (
        Logits.compute_loss,
        Feature.compute_loss,
    )


def compute_keras_loss(loss: Any, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
    """Return a loss of `keras.distillation` as a scalar.

    Args:
        loss: A `keras.distillation.DistillationLoss`.
        teacher: Outputs or features of the teacher.
        student: Those of the student.
        sample_weight: Weights of the samples; a subclass that computes by itself takes none.
            Defaults to `None`.
    """
    loss.validate_outputs(teacher, student)
    if not is_known(loss):
        return ops.cast(loss.compute_loss(teacher, student), "float32")
    temperature = loss.temperature if isinstance(loss, Logits) else None
    total = ops.zeros((), "float32")
    for part, path in leaves(loss.loss):
        if part is not None:
            t, s = (ops.cast(at(side, path), "float32") for side in (teacher, student))
            values = _values(part, ops.stop_gradient(t), s, temperature)
            weight = None if sample_weight is None else weights_by_sample(sample_weight, values)
            value = weighted_mean(values, weight)
            if getattr(part, "reduction", None) == "sum":
                value = value * ops.cast(ops.size(values), value.dtype)
            total += value
    return total


def _values(part: Any, teacher: Any, student: Any, temperature: float | None) -> Any:
    if temperature is not None and _is(part, "KLDivergence", "kl_divergence"):
        return kl_divergence(teacher, student, temperature)
    if temperature is not None and _is(part, "CategoricalCrossentropy", "categorical_crossentropy"):
        targets = ops.softmax(teacher / temperature, axis=-1)
        log_student = ops.log_softmax(student / temperature, axis=-1)
        return -(temperature**2) * ops.sum(targets * log_student, axis=-1)
    if temperature is not None:
        teacher, student = teacher / temperature, student / temperature
    return (
        part.call(teacher, student)
        if isinstance(part, keras.losses.Loss)
        else part(teacher, student)
    )


def _is(part: Any, class_name: str, function_name: str) -> bool:
    return type(part) is getattr(keras.losses, class_name) or part is getattr(
        keras.losses, function_name
    )
