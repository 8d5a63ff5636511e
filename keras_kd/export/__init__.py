"""Export to TFLite, and measurement of the exported file."""

from keras_kd.export.benchmark import benchmark_tflite as benchmark_tflite
from keras_kd.export.benchmark import benchmark_tflite_files as benchmark_tflite_files
from keras_kd.export.budget import Budget as Budget
from keras_kd.export.budget import BudgetExceeded as BudgetExceeded
from keras_kd.export.compare import Comparison as Comparison
from keras_kd.export.compare import compare as compare
from keras_kd.export.evaluate import evaluate_tflite as evaluate_tflite
from keras_kd.export.micro import CArray as CArray
from keras_kd.export.micro import export_c_array as export_c_array
from keras_kd.export.result import TFLiteResult as TFLiteResult
from keras_kd.export.sizes import file_size as file_size
from keras_kd.export.sizes import zipped_size as zipped_size
from keras_kd.export.tflite import export_tflite as export_tflite
