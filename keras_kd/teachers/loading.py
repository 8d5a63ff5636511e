"""load: a teacher from a file."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.litert.runtime import LiteRuntime
from keras_kd.models.opening import open_model
from keras_kd.system.quiet import capture_output
from keras_kd.system.shown_text import first_line


def load(
    path: str | os.PathLike[str],
    signature: str | None = None,
    custom_objects: dict[str, Any] | None = None,
    threads: int | None = None,
    safe_mode: bool | None = None,
) -> Any:
    """Return a teacher from a file or a folder.

    - A `.keras` or `.h5` file becomes its `keras.Model`, whose layers hints can name. One that
      Keras 2 (`tf.keras`) wrote becomes a model of Keras 3 with the same outputs.
    - A SavedModel folder becomes a callable on tensors that runs one of its signatures.
    - A `.tflite` file becomes a callable on tensors that runs it in LiteRT. Inputs and outputs
      held in 8 or 16 bits are taken and given as float32.

    Of the last two only the outputs are known: they can teach by their outputs, not by hints.

    Args:
        path: The file or folder.
        signature: The signature of a SavedModel. Defaults to `None`: `"serving_default"`, or the
            only one.
        custom_objects: Classes and functions that a `.keras` or `.h5` file names, by name.
            Defaults to `None`.
        threads: Number of threads that run a `.tflite` file. Defaults to `None`, as many as there
            are processors.
        safe_mode: Whether code in a `.keras` or `.h5` file, such as that of a `Lambda` layer, is
            refused. Defaults to `None`, which means `True`. `False` runs code from the file: for
            files that you trust.

    Returns:
        What `keras_kd.Distiller` takes as its `teacher`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        OSError: If it cannot be read.
        ValueError: If it is damaged or of another kind, holds code, names classes that are not
            known or has no equal in Keras 3, or an argument does not apply to it.

    Example:

    ```python
    teacher = keras_kd.teachers.load("exports/teacher_int8.tflite")
    distiller = keras_kd.Distiller(teacher, student, keras_kd.losses.KLDivergence(4.0))
    ```
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder at '{path}'.")
    kind = "folder" if path.is_dir() else path.suffix.lower()
    takes = {
        "folder": {"signature"},
        ".tflite": {"threads"},
        ".keras": {"custom_objects", "safe_mode"},
        ".h5": {"custom_objects", "safe_mode"},
    }
    if kind not in takes:
        raise ValueError(
            f"'{path}' is not a teacher: expected a .keras or .h5 file, a SavedModel folder or a "
            ".tflite file."
        )
    arguments = {
        "signature": signature,
        "custom_objects": custom_objects,
        "threads": threads,
        "safe_mode": safe_mode,
    }
    for name, value in arguments.items():
        if value is not None and name not in takes[kind]:
            what = "SavedModel folder" if kind == "folder" else f"{kind} file"
            raise ValueError(f"`{name}` does not apply to '{path}', a {what}. Leave it out.")
    if kind == "folder":
        return SavedModelTeacher(path, signature)
    if kind == ".tflite":
        return LiteRTTeacher(path, threads)
    return open_model(path, custom_objects, True if safe_mode is None else safe_mode)


class SavedModelTeacher:
    """A signature of a SavedModel as a teacher.

    Made by `keras_kd.teachers.load`.

    Args:
        path: The folder.
        signature: The name of the signature. Defaults to `None`: `"serving_default"`, or the only
            one.
        name: Name of the teacher. Defaults to `None`, the folder's name.

    Raises:
        ValueError: If the folder holds no readable SavedModel, or no such signature.
    """

    supports_jit = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        signature: str | None = None,
        name: str | None = None,
    ) -> None:
        self.path = pathlib.Path(path)
        self.name = name or self.path.name
        try:
            with capture_output(replay_on_error=False):
                # The signature's function does not keep the variables alive; the object does.
                self._loaded = tf.saved_model.load(os.fspath(path))
        except Exception as error:
            raise ValueError(
                f"'{self.path}' is not a SavedModel that TensorFlow can load: {first_line(error)}"
            ) from None
        self.signature = self._choose(signature)
        self._function = self._loaded.signatures[self.signature]
        self._specs = dict(self._function.structured_input_signature[1])

    @property
    def weights(self) -> list[Any]:
        """The variables of the signature."""
        return list(self._function.variables)

    def _choose(self, signature: str | None) -> str:
        names = sorted(self._loaded.signatures)
        if not names:
            raise ValueError(
                f"The SavedModel '{self.path}' has no signatures, so its inputs and outputs are "
                "unknown. Save it again: tf.saved_model.save(model, path, signatures="
                "function.get_concrete_function(tf.TensorSpec([None, ...], tf.float32)))."
            )
        listed = ", ".join(f"'{name}'" for name in names)
        if signature is None:
            if "serving_default" in names:
                return "serving_default"
            if len(names) == 1:
                return names[0]
            raise ValueError(
                f"The SavedModel '{self.path}' has the signatures {listed}. Choose one: "
                f"keras_kd.teachers.load(path, signature='{names[0]}')."
            )
        if signature not in names:
            raise ValueError(
                f"The SavedModel '{self.path}' has no signature '{signature}'; it has {listed}."
            )
        return signature

    def __call__(self, x: Any) -> Any:
        """Return the outputs of the signature for a batch of inputs.

        Args:
            x: A tensor, or a dictionary by the names of the signature's inputs.

        Returns:
            A tensor, or a dictionary by name where there are several outputs.

        Raises:
            ValueError: If the batch does not fit the signature.
        """
        what = f"The signature '{self.signature}' of '{self.path}'"
        if isinstance(x, (list, tuple)) and len(x) > 1:
            raise ValueError(
                f"{what} takes its inputs by name ({', '.join(self._specs)}), but the data holds "
                "a list. Pass `teacher_inputs=` a function that returns a dictionary by name."
            )
        outputs = self._function(**by_name(x, self._specs, what))
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))


class LiteRTTeacher:
    """A `.tflite` file as a teacher, run by LiteRT inside TensorFlow's graph.

    Inputs and outputs are plain numbers: what the file holds in 8 or 16 bits is quantized and
    dequantized with its own scales. A file for batches of any size runs once per batch, its
    tensors resized where needed; a file for a fixed batch as often as the batch needs.

    Made by `keras_kd.teachers.load`.

    Args:
        path: The file.
        threads: Number of threads of LiteRT. Defaults to `None`, as many as there are processors.
        name: Name of the teacher. Defaults to `None`, the file's name without its suffix.

    Raises:
        OSError: If there is no readable file at `path`.
        ValueError: If it is not a TFLite file which LiteRT can run.
    """

    supports_jit = False

    def __init__(
        self, path: str | os.PathLike[str], threads: int | None = None, name: str | None = None
    ) -> None:
        self._runtime = LiteRuntime(path, threads=threads or os.cpu_count() or 1)
        # One interpreter can run one batch at a time; replicas call from threads of their own.
        self._lock = threading.Lock()
        self.path = self._runtime.path
        self.name = name or self.path.stem
        self.inputs = self._runtime.inputs
        self._specs = {i.name: tf.TensorSpec(i.shape, i.dtype, i.name) for i in self.inputs}
        self._outputs = [
            tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, spec.name)
            for spec in self._runtime.output_specs()
        ]

    def __call__(self, x: Any) -> Any:
        """Return the file's outputs for a batch of inputs.

        Args:
            x: A tensor, a dictionary by the names of the file's inputs, or a list in their order.

        Returns:
            A tensor, or a dictionary by name where there are several outputs.

        Raises:
            ValueError: If the batch does not fit the file's inputs.
        """
        tensors = by_name(x, self._specs, f"The file '{self.path}'")
        outputs = tf.nest.flatten(
            tf.numpy_function(
                self._predict, list(tensors.values()), [spec.dtype for spec in self._outputs]
            )
        )
        batch = next(iter(tensors.values())).shape[0]
        named = {}
        for output, spec in zip(outputs, self._outputs, strict=True):
            output.set_shape([batch, *spec.shape[1:]])
            named[spec.name] = output
        return named if len(named) > 1 else outputs[0]

    def _predict(self, *arrays: np.ndarray) -> list[np.ndarray]:
        named = dict(zip(self._specs, arrays, strict=True))
        with self._lock:
            outputs = self._runtime.predict(named)
        return [outputs[spec.name] for spec in self._outputs]


def by_name(x: Any, specs: Mapping[str, tf.TensorSpec], what: str) -> dict[str, Any]:
    """Return the tensors of a batch by the names of the inputs, in the inputs' types.

    Args:
        x: A tensor, a dictionary by name, or a list or tuple in the inputs' order.
        specs: The name, shape and type of every input, in order.
        what: What takes the inputs, for error messages.

    Raises:
        ValueError: If the batch does not fit the inputs.
    """
    if isinstance(x, Mapping):
        missing = [name for name in specs if name not in x]
        if missing:
            raise ValueError(
                f"{what} takes {_names(specs)}, but the data holds {_names(x)}. "
                "Pass `teacher_inputs=` a function that returns the teacher's inputs by name."
            )
        given = {name: x[name] for name in specs}
    else:
        parts: Sequence[Any] = list(x) if isinstance(x, (list, tuple)) else [x]
        if len(parts) != len(specs):
            raise ValueError(
                f"{what} takes {_names(specs)}, but the data holds {len(parts)} "
                f"input{'' if len(parts) == 1 else 's'}. Pass `teacher_inputs=` a function that "
                "returns the teacher's inputs by name."
            )
        given = dict(zip(specs, parts, strict=True))
    return {name: _fit(given[name], spec, name, what) for name, spec in specs.items()}


def _fit(value: Any, spec: tf.TensorSpec, name: str, what: str) -> Any:
    value = tf.convert_to_tensor(value)
    if not spec.shape[1:].is_compatible_with(value.shape[1:]):
        raise ValueError(
            f"{what} takes '{name}' of shape {_sizes(spec.shape)} (without the batch), but the "
            f"data has {_sizes(value.shape)}. Pass `teacher_inputs=` a function that returns the "
            "teacher's inputs, such as keras.layers.Resizing(height, width)."
        )
    if value.dtype == spec.dtype:
        return value
    if value.dtype.is_floating and spec.dtype.is_integer:
        raise ValueError(
            f"{what} takes '{name}' as {spec.dtype.name}, but the data is {value.dtype.name}. Pass "
            f'`teacher_inputs=lambda x: keras.ops.cast(x, "{spec.dtype.name}")` if its numbers '
            "are whole."
        )
    return tf.cast(value, spec.dtype)


def _names(named: Any) -> str:
    names = ", ".join(f"'{name}'" for name in named)
    return f"the input {names}" if len(named) == 1 else f"the inputs {names}"


def _sizes(shape: tf.TensorShape) -> tuple[int | None, ...]:
    return tuple(shape[1:])
