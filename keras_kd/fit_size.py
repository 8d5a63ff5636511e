"""compress_to_size: the gentlest compression whose file is small enough."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from keras_kd.compression.compressed_model import CompressedModel
from keras_kd.compression.pipeline import compress
from keras_kd.compression.run_plan import run_plan
from keras_kd.compression.stage import Stage
from keras_kd.distiller import Distiller
from keras_kd.export.sizes import file_size, zipped_size
from keras_kd.export.tflite import export_tflite
from keras_kd.files import atomic_path, check_writable
from keras_kd.system.arguments import number
