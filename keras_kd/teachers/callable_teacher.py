"""CallableTeacher: a function, a layer or a loaded file in the teacher's place."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_kd.models.graph import flat_layers, output_structure
from keras_kd.system.shown_text import first_line
from keras_kd.teachers.adapted_teacher import AdaptedTeacher


class CallableTeacher:
    """A callable on tensors that stands for the teacher wherever one is called.

    Args:
        teacher: Called with a batch of inputs, and with `training=False` if it has such an
            argument. It returns a tensor or a structure of tensors.
        keep_dict: Whether a dictionary with a single entry stays one. Signatures of a SavedModel
            return such dictionaries around a single tensor. Defaults to `False`, the entry alone.
    """

    def __init__(self, teacher: Callable[..., Any], keep_dict: bool = False) -> None:
        self.teacher = teacher
        self.keep_dict = keep_dict
        self._takes_training = _takes_training(teacher)

    @property
    def name(self) -> str:
        """The name of the callable."""
        name = getattr(self.teacher, "name", None) or getattr(self.teacher, "__name__", None)
        return name if isinstance(name, str) else type(self.teacher).__name__

    @property
    def layers(self) -> list[Any]:
        """The layers that a hint can name: none, unless the callable has a list `layers`."""
        layers = getattr(self.teacher, "layers", None)
        return layers if isinstance(layers, list) else []

    @property
    def supports_jit(self) -> bool:
        """Whether XLA is known to be able to compile the callable."""
        known = isinstance(self.teacher, keras.layers.Layer)
        return bool(getattr(self.teacher, "supports_jit", known))

    def check(self, inputs: Any) -> None:
        """Pass a first batch to the callable's own `check`, where it has one."""
        check = getattr(self.teacher, "check", None)
        if callable(check):
            check(inputs)

    def __call__(self, x: Any, training: bool = False) -> Any:
        """Return the outputs of the callable as tensors.

        Args:
            x: A batch of inputs.
            training: Ignored: a teacher runs in inference mode. Defaults to `False`.

        Raises:
            ValueError: If the callable cannot work on TensorFlow's tensors, or returns something
                else.
        """
        arguments = {"training": False} if self._takes_training else {}
        try:
            outputs = self.teacher(x, **arguments)
        except (NotImplementedError, TypeError, AttributeError) as error:
            if tf.executing_eagerly() or not _needs_numpy(error):
                raise
            raise ValueError(
                f"The teacher '{self.name}' needs the numbers of its inputs, but `fit` calls it "
                "with TensorFlow's symbolic tensors. Write it with keras.ops or TensorFlow, wrap "
                "it in tf.numpy_function and give the result its shape with tf.ensure_shape, or "
                f"compile with run_eagerly=True. ({first_line(error)})"
            ) from error
        if isinstance(outputs, Mapping) and len(outputs) == 1 and not self.keep_dict:
            outputs = next(iter(outputs.values()))
        return keras.tree.map_structure(self._tensor, outputs)

    def _tensor(self, output: Any) -> Any:
        try:
            output = tf.convert_to_tensor(output)
        except (TypeError, ValueError):
            raise ValueError(
                f"The teacher '{self.name}' returned {type(output).__name__}, but a tensor, or a "
                "list, a tuple or a dictionary of tensors was expected. Return the logits, as "
                "with teacher=lambda x: model(x).logits."
            ) from None
        if output.shape.rank is None:
            raise ValueError(
                f"The teacher '{self.name}' returned a tensor of unknown shape. Give it one: "
                "tf.ensure_shape(outputs, (None, classes))."
            )
        return output


def _takes_training(function: Any) -> bool:
    if isinstance(function, functools.partial) and "training" in function.keywords:
        return False
    # Layers of Keras take whatever their `call` takes.
    inner = getattr(function, "call", None)
    try:
        parameters = inspect.signature(inner if callable(inner) else function).parameters
    except (TypeError, ValueError):
        return False
    return "training" in parameters


def _needs_numpy(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, tf.errors.OperatorNotAllowedInGraphError) or any(
        phrase in text for phrase in ("to a numpy array", "no attribute 'numpy'", "a NumPy call")
    )


def as_teacher(teacher: Any, student: keras.Model | None = None) -> Any:
    """Return what is called in the teacher's place: Keras models as they are, others wrapped.

    Args:
        teacher: A `keras.Model` or another callable.
        student: The student; where its outputs are a dictionary, the teacher's stay one too.
            Defaults to `None`.

    Raises:
        ValueError: If `teacher` is not callable.
    """
    if isinstance(teacher, (keras.Model, AdaptedTeacher, CallableTeacher)):
        return teacher
    if isinstance(teacher, (str, os.PathLike)):
        raise ValueError(
            "`teacher` must be a keras.Model or another callable on tensors. Received: the "
            f"{type(teacher).__name__} {os.fspath(teacher)!r}. To use a file, pass "
            f"keras_kd.teachers.load({os.fspath(teacher)!r})."
        )
    if isinstance(teacher, type):
        raise ValueError(
            "`teacher` must be a keras.Model or another callable on tensors. Received: the "
            f"class {teacher.__name__}. Pass an instance: {teacher.__name__}(...)."
        )
    if not callable(teacher):
        advice = (
            " For several teachers, pass keras_kd.teachers.Ensemble([...])."
            if isinstance(teacher, (list, tuple))
            else ""
        )
        raise ValueError(
            "`teacher` must be a keras.Model or another callable on tensors. Received: "
            f"{type(teacher).__name__}: {teacher!r}.{advice}"
        )
    keep_dict = student is not None and isinstance(output_structure(student), Mapping)
    return CallableTeacher(teacher, keep_dict)


def supports_jit(teacher: Any) -> bool:
    """Return whether XLA can compile a teacher, or `None` in its place, as far as is known."""
    if teacher is None:
        return True
    if isinstance(teacher, AdaptedTeacher):
        return supports_jit(teacher.teacher)
    if isinstance(teacher, keras.Model):
        return all(layer.supports_jit for layer in flat_layers(teacher))
    return as_teacher(teacher).supports_jit
