"""The values of distillation losses: computed on a batch, named, averaged over an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.distilling.hints import Hint
from keras_kd.losses.kl_divergence import kl_divergence
from keras_kd.losses.shared.base import DistillationLoss, require_equal_sizes
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.losses.shared.weighting import spread, weighted_mean, weights_by_sample
from keras_kd.models.structures import at, leaves
from keras_kd.system.names import snake_case

Logits = keras.distillation.LogitsDistillation
Feature = keras.distillation.FeatureDistillation


def evaluate_loss(
    loss: Any,
    teacher_outputs: Any,
    teacher_features: Mapping[str, Any],
    y: Any,
    y_pred: Any,
    features: Mapping[str, Any],
    sample_weight: Any = None,
    output_names: Sequence[str] | None = None,
    training: bool = False,
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
        training: Whether projections run in training mode. Defaults to `False`.
    """
    shared_weight = _weight_of_samples(sample_weight)
    if isinstance(loss, Hint):
        return loss(
            [teacher_features[path] for path in loss.teacher_paths],
            [features[path] for path in loss.student_paths],
            labels=y,
            sample_weight=shared_weight,
            training=training,
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


def _weight_of_samples(sample_weight: Any) -> Any:
    """Return the weights of a feature that the outputs share, or `None`.

    Keras gives one array of weights to every output. Of weights that differ it is the mean; weights
    by position say nothing of another layer's positions.
    """
    if not keras.tree.is_nested(sample_weight):
        return sample_weight
    weights = [w for w in keras.tree.flatten(sample_weight) if w is not None]
    weights = [ops.cast(w, "float32") for w in weights if all(n == 1 for n in w.shape[1:])]
    if not weights:
        return None
    return sum(ops.reshape(w, (-1,)) for w in weights) / len(weights)


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


# The sums of losses in the logs; the results of an objective hold two more.
LOGGED = ("loss", "student_loss", "distillation_loss")
SUMS = (*LOGGED, "weighted_student_loss", "weighted_distillation_loss")


def unique_names(losses: Sequence[Any], others: Sequence[str] = ()) -> list[str]:
    """Return a name for every loss, numbered from the second of the same name on.

    Args:
        losses: The distillation losses.
        others: Other names in the logs, which are taken, as those of the sums are. Defaults to
            none.
    """
    taken = [*SUMS, *others]
    names: list[str] = []
    for loss in losses:
        parts = [part for part, _ in leaves(loss) if part is not None] or [loss]
        # The losses of several outputs are one sum.
        every = [getattr(p, "name", None) or snake_case(type(p).__name__) for p in parts]
        name = "_and_".join(dict.fromkeys(every))
        unique, count = name, 1
        while _meets(unique, [*taken, *names]):
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return names


def _meets(name: str, others: Sequence[str]) -> bool:
    """Return whether a name is another one in the logs, of training or of validation."""
    return any(each in others for each in (name, f"val_{name}", name.removeprefix("val_")))


def refuse_names(names: Sequence[str], own: Sequence[str]) -> None:
    """Refuse names in the logs that are a distiller's own: one would overwrite the other.

    Args:
        names: The names of Keras's metrics and of its losses by output, and those of layers.
        own: The names of the distiller.

    Raises:
        ValueError: If so.
    """
    if taken := [name for name in names if _meets(name, own)]:
        raise ValueError(
            "A metric, or the loss `<output>_loss` of an output, has the name of a loss of the "
            f"distiller in the logs. Received: {taken[0]!r}. Give the metric another `name`, or "
            'the output: keras.Model(student.inputs, {"other_name": student.outputs[0], ...}).'
        )


def names_of_keras(
    output_names: Sequence[str] | None, losses: Any, metrics: Any, weighted_metrics: Any
) -> list[str]:
    """Return the names that Keras gives to losses of outputs and to metrics in the logs.

    Args:
        output_names: The names of the student's outputs, or `None`: these, and outputs in nested
            structures, are only known in the first step, which refuses them itself.
        losses: The losses on labels as `compile` takes them.
        metrics: Metrics as `compile` takes them.
        weighted_metrics: Metrics that use sample weights.
    """
    names = [*(output_names or ())]
    several = len(names) > 1
    parts = _by_output(losses, names) if several else {}
    found = [f"{name}_loss" for name, loss in parts.items() if loss is not None]
    found = found if len(found) > 1 else []
    of_metrics: list[str] = []
    for kind in (metrics, weighted_metrics):
        for output, part in (_by_output(kind, names) if several else {"": kind}).items():
            for metric in keras.tree.flatten(part):
                if metric is None:
                    continue
                prefix, name = f"{output}_" if output else "", _name_of(metric)
                if again := of_metrics.count(f"{prefix}{name}"):
                    of_metrics += [f"{prefix}{name}_{again}", f"{prefix}weighted_{name}"]
                of_metrics.append(f"{prefix}{name}")
    return [*found, *of_metrics]


def _by_output(parts: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(parts, Mapping):
        return {name: parts.get(name) for name in names}
    if isinstance(parts, (list, tuple)):
        return dict(zip(names, parts, strict=True)) if len(parts) == len(names) else {}
    return dict.fromkeys(names, parts)


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "name", None)
    return name or snake_case(getattr(metric, "__name__", type(metric).__name__))


def is_known(loss: Any) -> bool:
    """Return whether a loss is Keras's own, and not a subclass with a computation of its own."""
    return isinstance(loss, (Logits, Feature)) and type(loss).compute_loss in (
        Logits.compute_loss,
        Feature.compute_loss,
    )


def compute_keras_loss(loss: Any, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
    """Return a loss of `keras.distillation` as a scalar, computed on logits and in log space.

    Keras resolves the names `"kl_divergence"` and `"categorical_crossentropy"` to functions of
    probabilities and feeds them raw logits. Here they are what their documentation promises.

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
            require_equal_sizes(loss, t, s)
            values = _values(part, ops.stop_gradient(t), s, temperature)
            weight = None if sample_weight is None else weights_by_sample(sample_weight, values)
            mask = get_keras_mask(at(student, path))
            if mask is not None and len(mask.shape) > len(values.shape):
                mask = None
            total += _reduced(values, weight, mask, getattr(part, "reduction", None))
    return total


def _reduced(values: Any, weight: Any, mask: Any, reduction: str | None) -> Any:
    """Reduce values as the `reduction` of a loss of Keras says; all but two are a mean.

    An objective divides by the number of replicas: what these sum is a sum all the same.
    """
    mean, ones = weighted_mean(values, weight, mask), ops.ones_like(values)
    if reduction == "sum":
        counted = ones if mask is None else ones * spread(ops.cast(mask, ones.dtype), ones, "mask")
        return mean * ops.sum(counted) * tf.distribute.get_strategy().num_replicas_in_sync
    if reduction == "mean_with_sample_weight" and weight is not None:
        return ops.divide_no_nan(mean, weighted_mean(ones, weight, mask))
    return mean


def _values(part: Any, teacher: Any, student: Any, temperature: float | None) -> Any:
    if temperature is not None and _is(part, "KLDivergence", "kl_divergence"):
        return kl_divergence(teacher, student, temperature)
    if temperature is not None and _is(part, "CategoricalCrossentropy", "categorical_crossentropy"):
        axis, smoothing = (getattr(part, n, d) for n, d in (("axis", -1), ("label_smoothing", 0.0)))
        targets = ops.softmax(teacher / temperature, axis=axis)
        targets = targets * (1.0 - smoothing) + smoothing / targets.shape[axis]
        log_student = ops.log_softmax(student / temperature, axis=axis)
        return -(temperature**2) * ops.sum(targets * log_student, axis=axis)
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


class LossMeans(keras.metrics.Metric):
    """The running means of several scalars, by name.

    One metric for each would cost a small step several times as many operations.

    Args:
        names: The names of the scalars.
        name: Name of the metric. Defaults to `"loss_means"`.
    """

    def __init__(self, names: Sequence[str], name: str = "loss_means") -> None:
        super().__init__(name=name, dtype="float32")
        self.names = list(names)
        shape = (len(self.names),)
        self.totals = self.add_variable(shape, initializer="zeros", name="totals")
        self.counts = self.add_variable(shape, initializer="zeros", name="counts")

    def update_state(self, values: Mapping[str, Any], sample_weight: Any) -> None:
        """Add the scalars of a batch; those left out do not count in it.

        Args:
            values: Scalars by name; other names are left aside.
            sample_weight: The weight of the batch, a scalar.
        """
        present = [name in values for name in self.names]
        scalars = [
            ops.cast(values[name], "float32") if here else 0.0
            for name, here in zip(self.names, present, strict=True)
        ]
        weight = ops.cast(sample_weight, "float32")
        weights = weight * ops.convert_to_tensor(present, "float32")
        self.totals.assign_add(ops.stack(scalars) * weights)
        self.counts.assign_add(weights)

    def result(self) -> dict[str, Any]:
        """Return the means by name, zero where nothing was counted."""
        means = self.totals / ops.maximum(self.counts, 1e-7)
        return dict(zip(self.names, ops.unstack(means, len(self.names)), strict=True))
