"""AdaptedTeacher: a teacher that takes other inputs, or gives other outputs, than the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_kd.losses.shared.masks import with_masks_of
from keras_kd.losses.top_k_logits import has_top_k
from keras_kd.models.graph import output_structure


class AdaptedTeacher:
    """A teacher behind functions that fit its inputs and outputs to the student's.

    It stands for the teacher wherever one is called; its layers and its name are the teacher's.

    Args:
        teacher: The teacher.
        inputs: Called with the student's inputs, returns the teacher's. Defaults to `None`, the
            same inputs.
        outputs: Called with the teacher's outputs, returns what the student's are compared with.
            Defaults to `None`, the outputs as they are.
    """

    def __init__(
        self,
        teacher: Any,
        inputs: Callable[[Any], Any] | None = None,
        outputs: Callable[[Any], Any] | None = None,
    ) -> None:
        self.teacher = teacher
        self.inputs_function = inputs
        self.outputs_function = outputs

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.teacher.name

    @property
    def layers(self) -> list[Any]:
        """The teacher's layers."""
        return self.teacher.layers

    def check(self, inputs: Any) -> None:
        """Pass a first batch to the teacher's own `check`, where it has one."""
        check = getattr(self.teacher, "check", None)
        if callable(check):
            check(self._adapted(inputs))

    def _adapted(self, x: Any) -> Any:
        return x if self.inputs_function is None else self.inputs_function(x)

    def __call__(self, x: Any, training: bool = False) -> Any:
        """Return the adapted outputs for the student's inputs."""
        outputs = self.teacher(self._adapted(x), training=training)
        return adapted_outputs(self.outputs_function, outputs)

    def output_structure(self) -> Any:
        """Return the specifications of the adapted outputs, `None` where only a pass can tell."""
        structure = output_structure(self.teacher)
        if structure is None or self.outputs_function is None:
            return structure
        specs = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), structure)
        function = tf.function(self.outputs_function, autograph=False)
        return function.get_concrete_function(specs).structured_outputs


def adapted_outputs(function: Callable[[Any], Any] | None, outputs: Any) -> Any:
    """Return what the student's outputs are compared with, with the masks of the teacher's.

    Args:
        function: `teacher_outputs` of a distiller, or `None`.
        outputs: The teacher's outputs.

    Raises:
        ValueError: If they are top-k logits, which a function of all logits cannot read.
    """
    if function is None:
        return outputs
    if has_top_k(outputs):
        raise ValueError(
            "`teacher_outputs` is a function of all logits, but the data contains top-k logits. "
            "Cache them from the Distiller, which applies it before: "
            "keras_kd.teachers.cache(distiller, ..., top_k=...)."
        )
    return with_masks_of(function(outputs), outputs)


def unadapted(teacher: Any) -> Any:
    """Return the teacher behind an `AdaptedTeacher`, or the teacher itself."""
    return teacher.teacher if isinstance(teacher, AdaptedTeacher) else teacher


class Adapters:
    """The functions that fit a teacher to a student.

    Args:
        inputs: As for `AdaptedTeacher`.
        outputs: As for `AdaptedTeacher`.

    Raises:
        ValueError: If one is neither `None` nor callable.
    """

    def __init__(self, inputs: Any = None, outputs: Any = None) -> None:
        for argument, function in (("teacher_inputs", inputs), ("teacher_outputs", outputs)):
            if function is not None and not callable(function):
                raise ValueError(
                    f"`{argument}` must be a function or a layer. Received: {function!r}."
                )
        self.inputs = inputs
        self.outputs = outputs

    def adapt(self, teacher: Any) -> Any:
        """Return the teacher behind the functions, or itself where there are none."""
        if self.inputs is None and self.outputs is None:
            return teacher
        return AdaptedTeacher(teacher, self.inputs, self.outputs)
