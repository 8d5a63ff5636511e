"""Outputs of models as logits, and what the losses on them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.class_labels import label_mask
from keras_kd.losses.shared.norms import norm
from keras_kd.losses.shared.weighting import spread
from keras_kd.system.arguments import number, scheduled

# The smallest probability told from zero: its logarithm and its reciprocal are finite in float32.
PROBABILITY_FLOOR = 1e-30


def log_probabilities(probabilities: Any) -> Any:
    """Return the logarithm of probabilities, those below `1e-30` taken as `1e-30`."""
    return ops.log(ops.maximum(probabilities, PROBABILITY_FLOOR))


def standardize(logits: Any) -> Any:
    """Return `(x - mean) / (1e-7 + std)` along the last axis, `std` with `classes - 1`.

    Equal logits give zeros, with a gradient of zero.
    """
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    length = norm(centered, keepdims=True)
    deviation = length / (logits.shape[-1] - 1) ** 0.5
    centered = ops.where(ops.equal(length, 0), ops.zeros_like(centered), centered)
    return centered / (1e-7 + deviation)


class LogitsLoss(DistillationLoss):
    """A loss between the logits of teacher and student, `[batch, ..., classes]`.

    Attributes:
        multi_label: Whether each output is a label of its own. `class_weight` then weighs the
            outputs, which the subclass does, and not the examples.

    Args:
        from_logits: Whether the outputs are logits. If `False`, the logarithms of the
            probabilities (of at least `1e-30`) are used as logits. Defaults to `True`.
        name: Name of the loss. Defaults to the class's name in snake case.
        class_weight: By what the loss of an example is multiplied, by the class of its label: a
            dictionary `{class: weight}`, in which a class left out weighs 1, or one weight a
            class. Labels, indices or one-hot, are needed then; where there is none (an index
            outside of the classes), the weight is 1. Defaults to `None`.
        standardize: Whether the logits of both sides are standardized row by row. Defaults to
            `False`.

    Raises:
        TypeError: If `class_weight` is of another kind.
        ValueError: If a weight is negative.
    """

    uses_logits = True
    multi_label: bool = False

    def __init__(
        self,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(name)
        self.from_logits = from_logits
        self.standardize = standardize
        self.class_weight = _weights_of_classes(type(self).__name__, class_weight)

    def __call__(
        self, teacher: Any, student: Any, labels: Any = None, sample_weight: Any = None
    ) -> Any:
        """Return the loss of one batch, as `DistillationLoss` does."""
        if self.class_weight is not None and not self.multi_label:
            if (labels.get("label") if isinstance(labels, Mapping) else labels) is None:
                raise ValueError(
                    f"{type(self).__name__}: `class_weight` weighs a sample by its label. "
                    "Received: labels=None. Train on data of (x, y), or leave `class_weight` out."
                )
            weights = self._weights_of_labels(self._labels(labels), student)
            if sample_weight is not None:
                given = ops.cast(ops.convert_to_tensor(sample_weight), weights.dtype)
                weights = weights * spread(given, weights, "sample_weight")
            sample_weight = weights
        return super().__call__(teacher, student, labels, sample_weight)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse outputs that are not `[batch, ..., classes]` with equal shapes, two classes up."""
        super().check_shapes(teacher, student)
        shape = tuple(student.shape)
        if len(shape) < 2 or shape[-1] == 1:
            raise ValueError(
                f"{type(self).__name__} compares distributions over classes, outputs of shape "
                f"[batch, ..., classes] with two classes or more. Received: shape {shape}. For "
                "sigmoid outputs use BinaryKLDivergence, for real values BoundedRegression."
            )
        if self.standardize and shape[-1] == 2:
            raise ValueError(
                f"{type(self).__name__} standardizes logits, and of two standardized logits only "
                "the sign of their difference is left, which has no gradient. Received: shape "
                f"{shape}. Use a loss without standardizing, such as KLDivergence."
            )

    def as_logits(self, outputs: Any) -> Any:
        """Return `outputs` as logits, standardized where asked for."""
        logits = outputs if self.from_logits else log_probabilities(outputs)
        return standardize(logits) if self.standardize else logits

    def weights_of_classes(self, classes: int) -> Any:
        """Return `class_weight` as a tensor `[classes]`.

        Raises:
            ValueError: If `class_weight` names a class that the outputs do not have.
        """
        given = self.class_weight or {}
        if isinstance(given, list) and len(given) != classes:
            raise ValueError(
                f"{type(self).__name__}: `class_weight` has {len(given)} weights, but "
                f"the outputs have {classes} classes. Pass one per class, or a "
                "dictionary {class: weight} of those other than 1."
            )
        weights = [1.0] * classes
        for label, weight in _by_class(given):
            if label >= classes:
                raise ValueError(
                    f"{type(self).__name__}: `class_weight` names class {label}, but the outputs "
                    f"have the classes 0 ... {classes - 1}."
                )
            weights[label] = weight
        return ops.convert_to_tensor(weights, "float32")

    def _weights_of_labels(self, labels: Any, student: Any) -> Any:
        by_class = self.weights_of_classes(student.shape[-1])
        mask = label_mask(labels, student)
        chosen = ops.sum(ops.where(mask, by_class, ops.zeros_like(by_class)), axis=-1)
        return ops.where(ops.any(mask, axis=-1), chosen, ops.ones_like(chosen))


class TemperatureLoss(LogitsLoss):
    """A loss between softened predictions, `softmax(logits / T)`.

    Args:
        temperature: `T`, above 0; higher is softer. Defaults to `4.0`.
        from_logits: As in `LogitsLoss`. Defaults to `True`.
        name: Name of the loss. Defaults to the class's name in snake case.
        class_weight: As in `LogitsLoss`. Defaults to `None`.
        standardize: As in `LogitsLoss`. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(from_logits, name, class_weight, standardize)
        self.temperature = scheduled("temperature", temperature, above=0, owner=type(self).__name__)


def _by_class(given: Any) -> list[tuple[Any, Any]]:
    return [*(given.items() if isinstance(given, Mapping) else enumerate(given))]


def _weights_of_classes(loss: str, given: Any) -> dict[int, float] | list[float] | None:
    """Return weights in the form in which they were given, of which the loss is made again."""
    if given is None:
        return None
    try:
        # The keys of a saved dictionary are text.
        weights = {int(label): float(weight) for label, weight in _by_class(given)}
    except (TypeError, ValueError):
        raise TypeError(
            f"{loss}: `class_weight` must be a dictionary such as {{0: 1.0, 1: 19.0}} or a list "
            f"of one weight per class. Received: class_weight={given!r}."
        ) from None
    for label, weight in weights.items():
        number("class_weight", label, least=0, owner=loss, advice="It is a class.")
        number(f"class_weight[{label}]", weight, least=0, owner=loss)
    return weights if isinstance(given, Mapping) else [*weights.values()]
