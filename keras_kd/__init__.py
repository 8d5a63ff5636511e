"""keras_kd: distil, prune, quantize and export Keras models, and measure the exported file."""

import importlib as _importlib
import os as _os

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

from keras_kd import losses as losses
from keras_kd import teachers as teachers
from keras_kd._version import __version__ as __version__
from keras_kd.compression.cluster import Cluster as Cluster
from keras_kd.compression.compressed_model import CompressedModel as CompressedModel
from keras_kd.compression.compressed_model import load_compressed as load_compressed
from keras_kd.compression.low_rank import LowRank as LowRank
from keras_kd.compression.pipeline import compress as compress
from keras_kd.compression.prune import Prune as Prune
from keras_kd.compression.quantize_aware import QuantizeAware as QuantizeAware
from keras_kd.compression.shrink import Shrink as Shrink
from keras_kd.compression.shrinking.plan import ShrinkPlan as ShrinkPlan
from keras_kd.compression.shrinking.shrink_model import shrink as shrink
from keras_kd.compression.shrinking.shrink_model import shrink_plan as shrink_plan
from keras_kd.costs import model_cost as model_cost
from keras_kd.distiller import Distiller as Distiller
from keras_kd.export.benchmark import benchmark_tflite as benchmark_tflite
from keras_kd.export.benchmark import benchmark_tflite_files as benchmark_tflite_files
from keras_kd.export.evaluate import TFLiteResult as TFLiteResult
from keras_kd.export.evaluate import evaluate_tflite as evaluate_tflite
from keras_kd.export.tflite import export_tflite as export_tflite
from keras_kd.hints import Hint as Hint
from keras_kd.mutual import MutualDistiller as MutualDistiller


def __getattr__(name: str) -> object:
    # TensorFlow Datasets is imported only by those who use it.
    if name in ("datasets", "report"):
        return _importlib.import_module(f"keras_kd.{name}")
    raise AttributeError(f"module 'keras_kd' has no attribute '{name}'")
