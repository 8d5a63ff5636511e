"""keras_kd: distil, prune, quantize and export Keras models, and measure the exported file."""

import os as _os
import pathlib as _pathlib
import sys as _sys

from keras_kd._version import __version__ as __version__
from keras_kd.backend import load_keras as _load_keras
from keras_kd.system.names import public_names as _public_names

# TensorFlow logs how it was built and where it reads: warnings and errors stay visible.
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def _is_command() -> bool:
    """Whether this process is the command `keras-kd`, or `python -m keras_kd`."""
    name = _pathlib.PurePath(_sys.argv[0] if _sys.argv else "").name
    if name == "-m":  # what Python writes there until the module runs
        words = _sys.orig_argv
        return words[words.index("-m") + 1 :][:1] == ["keras_kd"]
    return name.removesuffix(".exe") == "keras-kd"


# TensorFlow takes seconds to import: `keras-kd --help` answers without it.
if not _is_command():
    _load_keras()
elif "--debug" not in _sys.argv:
    # The process is the command's own: of TensorFlow's log it shows errors.
    _os.environ["TF_CPP_MIN_LOG_LEVEL"] = max("2", _os.environ["TF_CPP_MIN_LOG_LEVEL"])

# The public names stand in __init__.pyi; what is not used is not imported.
__getattr__, __dir__, __all__ = _public_names(__name__, __file__)
