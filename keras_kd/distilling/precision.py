"""Loss scaling for students that compute in float16."""

from __future__ import annotations

from typing import Any

import keras

from keras_kd.models.graph import flat_layers


def with_loss_scale(optimizer: Any, student: keras.Model) -> Any:
    """Return an optimizer that scales the loss where a layer of the student computes in float16.

    Keras looks at the policy of the model that is compiled, which here is not the student.

    Args:
        optimizer: An optimizer, or `None`.
        student: The student.
    """
    if optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    if all(layer.dtype_policy.compute_dtype != "float16" for layer in flat_layers(student)):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
