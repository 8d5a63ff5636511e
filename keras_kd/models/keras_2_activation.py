"""An activation of Keras 2 whose name means another function in Keras 3."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_kd")
def hard_sigmoid_of_keras_2(x: Any) -> Any:
    """Return `clip(0.2 x + 0.5, 0, 1)`; Keras 3's `hard_sigmoid` has the slope 1/6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
