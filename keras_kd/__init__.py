"""keras_kd: distil, prune, quantize and export Keras models, and measure the exported file."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"keras_kd needs Keras's TensorFlow backend, but the backend is "
        f"'{_keras.backend.backend()}'. Set the environment variable KERAS_BACKEND=tensorflow "
        "before Keras is imported."
    )

from keras_kd import losses as losses
from keras_kd._version import __version__ as __version__
from keras_kd.distiller import Distiller as Distiller
from keras_kd.hints import Hint as Hint
