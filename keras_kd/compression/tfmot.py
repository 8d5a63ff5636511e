"""TF-MOT, imported when a stage needs it."""

from __future__ import annotations

import os
from typing import Any

_VARIABLE = "TF_USE_LEGACY_KERAS"


def import_tfmot() -> Any:
    """Import `tensorflow_model_optimization`.

    Its import sets `TF_USE_LEGACY_KERAS=1` for the whole process. The variable is put back, and
    `tf.keras` stays the Keras that it was.

    Returns:
        The module.

    Raises:
        ImportError: If TF-MOT or `tf_keras` is not installed.
    """
    import tensorflow as tf

    # `tf.keras` is resolved at its first use: that must happen before the variable is set.
    _ = tf.keras.__name__
    before = os.environ.get(_VARIABLE)
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise ImportError(
            f"Compression needs TF-MOT and tf_keras, but '{error.name}' cannot be imported. "
            "Run: pip install tensorflow-model-optimization tf_keras"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return tfmot
