"""Outputs of models as logits, and the checks that losses on outputs share."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_kd.losses.base import DistillationLoss

# The smallest probability told from zero: its logarithm and its reciprocal are finite in float32.
PROBABILITY_FLOOR = 1e-30


def log_probabilities(probabilities: Any) -> Any:
    """Return the logarithm of probabilities, those below `1e-30` taken as `1e-30`."""
    return ops.log(ops.maximum(probabilities, PROBABILITY_FLOOR))


class LogitsLoss(DistillationLoss):
    """A loss between the logits of teacher and student, `[batch, ..., classes]`.

    Args:
        from_logits: Whether the outputs are logits; if not, they are probabilities, whose
            logarithms (of at least `1e-30`) stand for the logits. Defaults to `True`.
        name: Name of the loss. Defaults to the class's name in snake case.
    """

    uses_logits = True

    def __init__(self, from_logits: bool = True, name: str | None = None) -> None:
        super().__init__(name)
        self.from_logits = from_logits

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse outputs that are not `[batch, ..., classes]` with equal shapes, two classes up."""
        super().check_shapes(teacher, student)
        shape = tuple(student.shape)
        if len(shape) < 2 or shape[-1] == 1:
            raise ValueError(
                f"{type(self).__name__} compares distributions over classes, outputs of shape "
                f"[batch, ..., classes] with two classes or more, but received shape {shape}. For "
                "sigmoid outputs use BinaryKLDivergence, for real values BoundedRegression."
            )

    def as_logits(self, outputs: Any) -> Any:
        """Return `outputs` as logits."""
        return outputs if self.from_logits else log_probabilities(outputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "from_logits": self.from_logits}
