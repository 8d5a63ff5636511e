"""The mask of a tensor: the one place for Keras's functions of it."""

from keras.src.backend import get_keras_mask as get_keras_mask
from keras.src.backend import set_keras_mask as set_keras_mask
