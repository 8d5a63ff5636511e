"""SoftTargetsLoss: a student's softened predictions against a teacher's, position by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd.losses.shared.base import require_equal_sizes
from keras_kd.losses.shared.chunks import in_chunks
from keras_kd.losses.shared.logits import TemperatureLoss
from keras_kd.losses.shared.weighting import widened
from keras_kd.losses.top_k_logits import TopKLogits, log_sum_exp_of_others
from keras_kd.system.arguments import number

# Below the largest logit by this, a softmax is zero in float32.
_NO_MASS = -200.0


def kl_of_logs(log_p: Any, log_q: Any) -> Any:
    """Return `sum_c p (log p - log q)` along the last axis."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


class SoftTargetsLoss(TemperatureLoss):
    """A divergence of two softened distributions, position by position.

    A subclass gives `divergence`. The teacher may be a `TopKLogits`, whose other classes count as
    one class on both sides; large tensors may be read a chunk of positions at a time.

    Args:
        temperature: As in `TemperatureLoss`. Defaults to `4.0`.
        from_logits: As in `LogitsLoss`. Defaults to `True`.
        name: Name of the loss. Defaults to the class's name in snake case.
        class_weight: As in `LogitsLoss`. Defaults to `None`.
        chunk_size: Number of positions that are treated at a time. Defaults to `None`, all.
        standardize: As in `LogitsLoss`. Defaults to `False`.

    Raises:
        ValueError: If `temperature` is not above 0, or `chunk_size` no whole number above 0.
    """

    reads_top_k = True

    def __init__(
        self,
        temperature: float = 4.0,
        from_logits: bool = True,
        name: str | None = None,
        class_weight: Mapping[int, float] | Sequence[float] | None = None,
        chunk_size: int | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(temperature, from_logits, name, class_weight, standardize)
        owner = type(self).__name__
        self.chunk_size = number(
            "chunk_size", chunk_size, least=1, whole=True, optional=True, owner=owner
        )

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile the loss."""
        return self.chunk_size is None

    def divergence(self, teacher: Any, student: Any) -> Any:
        """Return the loss of each position.

        Args:
            teacher: Logits of the teacher, `[..., classes]`.
            student: Logits of the student, `[..., classes]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement divergence().")

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the loss of each sample or position, `[batch, ...]`."""
        if self.chunk_size is None:
            return self._values(teacher, student)
        positions = ops.shape(student)[:-1]
        rank = len(student.shape) - 1
        kept = isinstance(teacher, TopKLogits)
        parts = [*teacher[:3]] if kept else [teacher]
        rows = [ops.reshape(part, (-1, *part.shape[rank:])) for part in [*parts, student]]

        def as_given(parts: Sequence[Any]) -> Any:
            return TopKLogits(parts[0], parts[1], parts[2], None) if kept else parts[0]

        values = in_chunks(
            lambda teacher, student: self._values(as_given(teacher), student),
            lambda teacher, student: self._slopes(as_given(teacher), student),
            rows[:-1],
            rows[-1],
            self.chunk_size,
        )
        return ops.reshape(values, positions)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuse outputs that are not `[batch, ..., classes]` with equal shapes, two classes up."""
        if not isinstance(teacher, TopKLogits):
            super().check_shapes(teacher, student)
            return
        super().check_shapes(student, student)
        kept, expected = tuple(teacher.values.shape), tuple(student.shape)
        equal = len(kept) == len(expected) and all(
            None in (k, s) or k == s for k, s in zip(kept[:-1], expected[:-1], strict=True)
        )
        if not equal or kept[-1] > expected[-1]:
            raise ValueError(
                f"{type(self).__name__}: the teacher's top-k logits have shape {kept}, which does "
                f"not fit a student of shape {expected}. They must be made of logits of the "
                "student's shape."
            )
        require_equal_sizes(self, teacher.values, student, axes=len(kept) - 1)

    def _prepare(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        if not isinstance(teacher, TopKLogits):
            if self.chunk_size is None:
                return super()._prepare(teacher, student)
            self._refuse_lists(teacher, student)
            # Each chunk is widened by itself.
            teacher, student = map(ops.convert_to_tensor, (teacher, student))
            return ops.stop_gradient(teacher), student
        check_temperature(self, teacher)
        self._refuse_lists(student, student)
        values, indices, rest = (
            ops.stop_gradient(ops.convert_to_tensor(part)) for part in teacher[:3]
        )
        teacher = TopKLogits(values, indices, rest, None)
        student = ops.convert_to_tensor(student)
        return teacher, student if self.chunk_size else widened(student)

    def _values(self, teacher: Any, student: Any) -> Any:
        logits = self.as_logits(widened(student))
        if isinstance(teacher, TopKLogits):
            return self.divergence(*_one_class_of_the_others(teacher, logits, self.temperature))
        return self.divergence(self._teacher_logits(teacher, logits), logits)

    def _teacher_logits(self, teacher: Any, student: Any) -> Any:
        return self.as_logits(ops.cast(widened(teacher), student.dtype))

    def _slopes(self, teacher: Any, student: Any) -> Any:
        """Return the derivative of `_values` with respect to `student`, `[rows, classes]`."""
        student = widened(student)
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = self._values(teacher, student)
        return tape.gradient(values, student)


def check_temperature(loss: Any, teacher: TopKLogits) -> None:
    """Refuse top-k logits whose mass of the other classes is that of another temperature.

    Only values can tell: symbolic tensors pass.

    Raises:
        ValueError: Naming both temperatures; or if the loss standardizes logits, which needs all.
    """
    if loss.standardize:
        raise ValueError(
            f"{type(loss).__name__} cannot standardize top-k logits: mean and spread need all "
            "classes. Received: standardize=True. Keep all logits, or leave `standardize` out."
        )
    symbolic = isinstance(teacher.temperature, keras.KerasTensor) or (
        isinstance(teacher.temperature, tf.Tensor) and not hasattr(teacher.temperature, "numpy")
    )
    if symbolic or (tf.is_tensor(loss.temperature) and not hasattr(loss.temperature, "numpy")):
        return
    stored = np.unique(np.asarray(teacher.temperature, "float32"))
    fits = isinstance(loss.temperature, (int, float)) or tf.is_tensor(loss.temperature)
    if stored.size == 0 or (fits and np.allclose(stored, float(loss.temperature), rtol=1e-6)):
        return
    received = float(loss.temperature) if fits else "a schedule"
    line = f"{type(loss).__name__}(temperature={float(stored[0])!r})"
    raise ValueError(
        f"{type(loss).__name__} has the temperature {received}, but the teacher's top-k logits "
        f"were made for {', '.join(str(float(value)) for value in stored)}: the mass of the other "
        f"classes is right for that alone. Use {line}, or make them again."
    )


def _one_class_of_the_others(
    teacher: TopKLogits, student: Any, temperature: Any
) -> tuple[Any, Any]:
    """Return logits of the kept classes, with one more that has the mass of all the others."""
    kept = ops.take_along_axis(student, teacher.indices, axis=-1)
    values = ops.cast(teacher.values, student.dtype)
    if teacher.indices.shape[-1] == student.shape[-1]:
        return values, kept
    # Finite also where the other classes have no mass at all.
    least = ops.max(values, axis=-1) / temperature + _NO_MASS
    rest = temperature * ops.maximum(ops.cast(teacher.rest, student.dtype), least)
    others = temperature * log_sum_exp_of_others(student / temperature, teacher.indices)
    return tuple(
        ops.concatenate([logits, ops.expand_dims(other, -1)], axis=-1)
        for logits, other in ((values, rest), (kept, others))
    )
