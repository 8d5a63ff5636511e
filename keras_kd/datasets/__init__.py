"""Data sets from TensorFlow Datasets, and `digits`, which needs no download.

Importing this package registers `digits`, so that `tfds.load("digits")` works afterwards.
"""

from __future__ import annotations

from keras_kd.datasets.loading import load as load
from keras_kd.datasets.loading import register as register

register()
