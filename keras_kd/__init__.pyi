"""The public names; each is imported when it is first used."""

from . import datasets as datasets
from . import losses as losses
from . import report as report
from . import teachers as teachers
from ._version import __version__ as __version__
from .compression.cluster import Cluster as Cluster
from .compression.compressed_model import CompressedModel as CompressedModel
from .compression.compressed_model import load_compressed as load_compressed
from .compression.low_rank import LowRank as LowRank
from .compression.pipeline import compress as compress
from .compression.prune import Prune as Prune
from .compression.quantize_aware import QuantizeAware as QuantizeAware
from .compression.shrink import Shrink as Shrink
from .compression.shrinking.plan import ShrinkPlan as ShrinkPlan
from .compression.shrinking.shrink_model import shrink as shrink
from .compression.shrinking.shrink_model import shrink_plan as shrink_plan
from .costs import model_cost as model_cost
from .distiller import Distiller as Distiller
from .export.benchmark import benchmark_tflite as benchmark_tflite
from .export.benchmark import benchmark_tflite_files as benchmark_tflite_files
from .export.evaluate import TFLiteResult as TFLiteResult
from .export.evaluate import evaluate_tflite as evaluate_tflite
from .export.tflite import export_tflite as export_tflite
from .fit_size import compress_to_size as compress_to_size
from .hints import Hint as Hint
from .mutual import MutualDistiller as MutualDistiller
