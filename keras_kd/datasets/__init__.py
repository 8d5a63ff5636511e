"""Datasets from TensorFlow Datasets, `digits`, which needs no download, and `fashion_scenes`.

Importing this package registers both, so that `tfds.load("digits")` works afterwards.
"""

from __future__ import annotations

from keras_kd.datasets.loading import load as load
from keras_kd.datasets.loading import register as register

register()
