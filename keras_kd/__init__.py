"""keras_kd: distil, prune, quantize and export Keras models, and measure the exported file."""

import os as _os

import lazy_loader as _lazy_loader

from keras_kd.quiet import capture_output as _capture_output

# TensorFlow logs how it was built and where it reads: warnings and errors stay visible.
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
with _capture_output():
    import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_kd needs Keras's TensorFlow backend, but the backend is "
        f"'{_keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
        "before Keras is imported."
    )

# Keras must know these by name when it loads a file.
import keras_kd.distiller as _distiller  # noqa: F401
import keras_kd.mutual as _mutual  # noqa: F401
from keras_kd._version import __version__ as __version__

# The public names stand in __init__.pyi; what is not used is not imported.
__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
