"""LiteRTTeacher: a TFLite file that teaches."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.litert.runtime import LiteRuntime
from keras_kd.teachers.file_inputs import by_name


class LiteRTTeacher:
    """A `.tflite` file as a teacher, run by LiteRT inside TensorFlow's graph.

    Inputs and outputs are plain numbers: what the file holds in 8 or 16 bits is quantized and
    dequantized with its own scales. A file for batches of any size is run once a batch, its
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
