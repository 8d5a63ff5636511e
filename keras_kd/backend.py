"""Importing Keras, quietly and with the backend that this package is for."""

from __future__ import annotations

from keras_kd.system.quiet import capture_output


def load_keras() -> None:
    """Import Keras, and what it must know by name when it loads a file.

    Raises:
        ImportError: If Keras runs on another backend than TensorFlow.
    """
    with capture_output():
        import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            "keras_kd needs Keras's TensorFlow backend, but the backend is "
            f"'{keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
            "before Keras is imported."
        )
    import keras_kd.distilling.distiller
    import keras_kd.distilling.mutual
    import keras_kd.models.keras_2_activation
    import keras_kd.models.keras_2_masks  # noqa: F401
