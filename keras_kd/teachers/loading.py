"""load: a teacher from a file."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from keras_kd.models.opening import open_model
from keras_kd.teachers.saved_teachers import LiteRTTeacher, SavedModelTeacher


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
            f"'{path}' is no teacher: a .keras or .h5 file, a SavedModel folder or a .tflite file "
            "was expected."
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
