"""What the Keras model answers, which a file was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import safe_name
from keras_kd.models.outputs import name_outputs


def reference_outputs(
    model: Any, output_names: Sequence[str], position: int, path: Any
) -> Callable[[Any], np.ndarray]:
    """Return a function which gives a model's outputs for inputs as the data gives them.

    Args:
        model: A Keras model or a compressed one.
        output_names: The outputs of the file at `path`.
        position: Which of them is asked for.
        path: The file, for error messages.

    Returns:
        A function from inputs to the output, as float32.

    Raises:
        TypeError: If `model` is something else.
    """
    import tensorflow as tf

    if isinstance(model, keras.Model) or hasattr(model, "predict_on_batch"):
        run = partial(model, training=False)
    elif callable(model) and hasattr(model, "predict"):
        run = model
    else:
        raise TypeError(
            f"`model` must be a Keras model or a compressed one. Received: {type(model).__name__}."
        )
    wanted = output_names[position]
    compiled = tf.function(run, autograph=False, reduce_retracing=True)

    def outputs(x: Any) -> np.ndarray:
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        named = name_outputs(getattr(model, "model", model), compiled(x))
        by_name = {safe_name(name): tensor for name, tensor in named.items()}
        if len(by_name) != len(output_names):
            raise ValueError(
                f"`model` has {len(by_name)} output(s) and '{path}' has {len(output_names)}: the "
                "file was not made from this model."
            )
        chosen = by_name[wanted] if wanted in by_name else list(named.values())[position]
        return np.asarray(tf.cast(chosen, tf.float32))

    return outputs
