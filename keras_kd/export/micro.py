"""export_c_array: a TFLite file as C++ source for TensorFlow Lite for Microcontrollers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import warnings
import zlib
from typing import Any

from keras_kd.export.micro_arena import estimate_arena
from keras_kd.export.micro_operators import refusal, resolver_calls
from keras_kd.export.micro_source import MARK, Facts, c_type, header_text, source_text
from keras_kd.export.micro_trial import Trial, available, run_trial
from keras_kd.files import atomic_path, check_writable
from keras_kd.litert.flatbuffer import ModelFile
from keras_kd.litert.graph import Graph, Tensor, read_graphs
from keras_kd.litert.loading import probe_file
from keras_kd.system.arguments import number
