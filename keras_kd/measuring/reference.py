"""What the Keras model answers, which a file was made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import safe_name
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.models.outputs import name_outputs
from keras_kd.models.probabilities import last_activation
from keras_kd.models.recurrent import without_state
from keras_kd.system.quiet import without_retracing_warnings


class Reference:
    """Gives a model's outputs for inputs as the data gives them.

    Args:
        model: A Keras model or a compressed one.
        output_names: The outputs of the file at `path`.
        position: Which of them is asked for.
        path: The file, for error messages.

    Raises:
        TypeError: If `model` is something else.
    """

    def __init__(self, model: Any, output_names: Sequence[str], position: int, path: Any) -> None:
        import tensorflow as tf

        if isinstance(model, keras.Model) or hasattr(model, "predict_on_batch"):
            run = partial(model, training=False)
        elif callable(model) and hasattr(model, "predict"):
            run = model
        else:
            raise TypeError(
                "`model` must be a Keras model or a compressed one. Received: "
                f"{type(model).__name__}."
            )
        self._model = getattr(model, "model", model)
        self._names = list(output_names)
        self._position = position
        self._path = path

        def outputs_and_masks(x: Any) -> tuple[list[Any], list[Any]]:
            outputs = self._ordered(run(x))
            return outputs, [get_keras_mask(output) for output in outputs]

        self._run = tf.function(outputs_and_masks, autograph=False, reduce_retracing=True)

    def _ordered(self, outputs: Any) -> list[Any]:
        """Return the outputs, or what is known of each, in the order of the file."""
        named = name_outputs(self._model, outputs)
        if len(named) != len(self._names):
            raise ValueError(
                f"`model` has {len(named)} output(s) and '{self._path}' has {len(self._names)}: "
                "the file was not made from this model."
            )
        by_name = {safe_name(name): output for name, output in named.items()}
        in_order = zip(self._names, named.values(), strict=True)
        return [by_name.get(name, output) for name, output in in_order]

    @property
    def end(self) -> str | None:
        """What the model's graph shows about the output: see `last_activation`."""
        ends = last_activation(self._model)
        if ends is None:
            return None
        end: str | None = self._ordered(ends)[self._position]
        return end

    def __call__(self, x: Any) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Return the output, numbers as float32, and the Keras mask of every output of the file."""
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        with without_retracing_warnings(), without_state(self._model):
            outputs, masks = self._run(x)
        chosen = outputs[self._position]
        if keras.backend.is_float_dtype(chosen.dtype):
            chosen = keras.ops.cast(chosen, "float32")
        return np.asarray(chosen), [None if mask is None else np.asarray(mask) for mask in masks]
